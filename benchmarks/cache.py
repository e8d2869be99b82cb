"""python -m benchmarks.cache --pairs FILE [--pairs FILE ...] [--artifact DIR] [--show 10]

Replays labelled pairs through the decision code of the semantic cache: cosine alone at several thresholds, then each
gate added, then the full decision as it stands for an entry without labels of its own. Per rule: hits, wrong hits,
recall of true duplicates, precision with its 95 % bound (Clopper-Pearson, one-sided); for the full decision also by
test type. The last line of stdout is JSON.

What it does not measure: search (every pair is taken as a found candidate), eligibility, and what entries learn later.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.errors import ConfigError, StartError
from router.cache import gates, pairs, replay, tune
from router.cache.pairs import Pair
from router.cache.replay import Case, Encodes
from router.cache.text import read
from router.cache.verify import Decider
from router.embedding.minilm import load_default

COSINES = (0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
Rule = Callable[[Case], bool]


def rules(decider: Decider) -> dict[str, Rule]:
    """By name, loosest first. Gates are added in the order in which they run, behind the decision's own cosine
    floor."""
    floor = decider.rules.cosine_floor
    named: dict[str, Rule] = {f"cosine >= {threshold:.2f}": _cosine(threshold) for threshold in COSINES}
    names = [gate.name for gate in gates.GATES]
    for count, name in enumerate(names, 1):
        named[f"{'+ ' if count > 1 else f'cosine >= {floor:.2f} + '}{name}"] = _gated(floor, frozenset(names[:count]))
    named["full decision"] = replay.decides(decider)
    return named


def _cosine(threshold: float) -> Rule:
    return lambda case: case.similarity >= threshold


def _gated(floor: float, active: frozenset[str]) -> Rule:
    return lambda case: case.similarity >= floor and active.isdisjoint(case.refused)


def report(known: Sequence[Pair], encoder: Encodes, decider: Decider) -> dict[str, Any]:
    """All figures. Splits marked held out are counted apart as well."""
    cases = replay.cases(known, encoder)
    named = rules(decider)
    full, cosine = named["full decision"], _cosine(0.95)
    found: dict[str, Any] = {"rules": {name: replay.tally(cases, rule).figures() for name, rule in named.items()}}
    groups = sorted({(case.pair.same, case.pair.group) for case in cases})
    found["by_type"] = [
        {"type": group, "same": same, "pairs": len(chosen)}
        | {"served": replay.tally(chosen, full).hits, "cosine_095": replay.tally(chosen, cosine).hits}
        for same, group in groups
        if (chosen := [case for case in cases if (case.pair.same, case.pair.group) == (same, group)])
    ]
    heldout = [case for case in cases if case.pair.heldout]
    if heldout:
        compared = ("cosine >= 0.95", "full decision")
        found["heldout"] = {name: replay.tally(heldout, named[name]).figures() for name in compared}
    found["missed_positives_by_gate"] = dict(
        Counter(case.refused[0] if case.refused else "score" for case in cases if case.pair.same and not full(case))
    )
    found["wrong"] = [[case.pair.a, case.pair.b] for case in cases if not case.pair.same and full(case)]
    found["missed"] = [[case.pair.a, case.pair.b, *case.refused] for case in cases if case.pair.same and not full(case)]
    return found


def decision_ms(known: Sequence[Pair], encoder: Encodes, decider: Decider) -> float:
    """Milliseconds per pair for reading both texts and deciding, without encoding."""
    some = replay.cases(known[:500], encoder)
    full = replay.decides(decider)
    begun = time.perf_counter()
    for case in some:
        full(replace(case, a=read(case.pair.a), b=read(case.pair.b)))
    return 1000 * (time.perf_counter() - begun) / len(some)


def _line(name: str, figures: dict[str, Any]) -> str:
    def shown(key: str, width: int) -> str:
        value = figures[key]
        return f"{'-' if value is None else format(value, '.4f'):>{width}}"

    return (
        f"{name:<28}{figures['hits']:>7}{figures['wrong_hits']:>7}{shown('wrong_of_negatives', 10)}{shown('recall', 9)}"
        f"{shown('precision', 11)}{shown('precision_low', 10)}"
    )


def show(found: dict[str, Any], examples: int) -> None:
    heading = f"{'rule':<28}{'hits':>7}{'wrong':>7}{'of neg.':>10}{'recall':>9}{'precision':>11}{'>= (95%)':>10}"
    print(heading)
    for name, figures in found["rules"].items():
        print(_line(name, figures))
    for name, figures in found.get("heldout", {}).items():
        print(_line(f"held out: {name}", figures))
    print(f"\n{'same':>4}{'pairs':>7}{'cos .95':>9}{'served':>8}  type")
    for row in found["by_type"]:
        print(f"{int(row['same']):>4}{row['pairs']:>7}{row['cosine_095']:>9}{row['served']:>8}  {row['type']}")
    print(f"\nmissed positives by what refused them: {found['missed_positives_by_gate']}")
    for kind in ("wrong", "missed"):
        for example in found[kind][:examples]:
            print(f"{kind}: {' | '.join(example)}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cache", description="What the semantic cache would serve."
    )
    parser.add_argument(
        "--pairs", type=Path, action="append", required=True, help="JSON lines {a, b, same}, .gz or not"
    )
    parser.add_argument(
        "--artifact", type=Path, help="a folder written by tune-cache (default: the shipped prior and rules)"
    )
    parser.add_argument("--show", type=int, default=0, help="print so many wrong and missed pairs")
    options = parser.parse_args(arguments)
    try:
        known, encoder = pairs.load(options.pairs), load_default()
        identity = encoder.identity.sha256
        loaded = tune.load(options.artifact, identity) if options.artifact else tune.shipped(identity)
    except (ConfigError, StartError) as exc:
        print(f"benchmarks.cache: {exc}", file=sys.stderr)
        return 2
    decider = loaded.decider
    found = report(known, encoder, decider)
    show(found, options.show)
    summary: dict[str, Any] = {
        key: found[key] for key in ("rules", "by_type", "heldout", "missed_positives_by_gate") if key in found
    }
    summary |= {
        "encoder_sha256": identity,
        "data_sha256": pairs.digest(known),
        "artifact": loaded.version,
        "max_wrong_hit_rate": decider.rules.max_wrong_hit_rate,
        "decision_ms": round(decision_ms(known, encoder, decider), 3),
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
