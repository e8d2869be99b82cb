"""What the gateway costs: an instant scripted upstream, asked directly and through the whole service.

    python -m benchmarks.overhead [--peer litellm] [--seconds 4] [--clients 1,32] [--rounds 3] [--out FILE]

The service runs with keys, journal, ledger, metrics and cache on. `gateway`: the tier is named and every prompt is new,
so each request goes upstream and its answer is stored. `hits`: one prompt over and over, answered by the exact cache.
Unary answers of 50 tokens, and streams of 50 chunks. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import contest, machine, scripted, service
from benchmarks.child import Nursery, guarded, python, say
from benchmarks.client import Expected
from benchmarks.contest import LATENCY_P50_MS, RPS, Aim, Case, Contender, Results
from benchmarks.load import Plan, counts, positive
from benchmarks.measure import Spread
from benchmarks.peers import litellm

MODEL = "scripted"
TIER = "hosted"
KINDS = ("unary", "stream")


def run(options: argparse.Namespace, folder: Path) -> int:
    """The whole benchmark; returns the exit code."""
    began = {"date": machine.now(), "machine": machine.describe()}
    if options.peer:
        litellm.install(folder)
    nursery = Nursery(folder)
    with contextlib.ExitStack() as stack:
        say("starting the scripted upstream and the service")
        upstream = stack.enter_context(nursery.child("upstream", python("benchmarks.scripted", "--model", MODEL)))
        upstream_url = upstream.wait_for_line("ready ", 30.0)
        config = service.configuration([_tier(upstream_url)], {MODEL: service.SCRIPTED_PRICE})
        ours = stack.enter_context(service.running(nursery, config))
        contenders = _contenders(upstream_url, ours, options)
        if options.peer:
            say("starting LiteLLM's proxy")
            peer = stack.enter_context(litellm.running(nursery, f"{upstream_url}/v1", MODEL))
            contenders.append(Contender("litellm", _plan(peer.v1, MODEL, peer.key, options)))
        cases = [Case(kind, clients) for kind in KINDS for clients in options.clients]
        contest.tell(contest.HEADER)
        before = _completions(upstream_url)
        results = Results()
        contest.contest(contenders, cases, options.rounds, results)
        checks = {
            "upstream_requests": _completions(upstream_url) - before,
            "upstream_expected": results.sent("direct", "gateway", "litellm") + 1,  # the one that all hits repeat
            "ledger_rows": ours.ledger_requests(),
            "ledger_expected": results.sent("gateway", "hits"),
        }
        say("stopping")
    record = {
        "benchmark": "overhead",
        **began,
        "peer": {"litellm": litellm.version()} if options.peer else {},
        "seed": options.seed,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "config": {**config, "state_dir": "its own"},
        "results": contest.records(results),
        "checks": checks,
        "left_behind": nursery.left_behind,
    }
    contest.finish(record, aims(results, options.clients), options.out)
    for process in nursery.left_behind:
        say(f"had to be killed: {process}")
    return 1 if nursery.left_behind else 0


def _tier(upstream_url: str) -> dict[str, Any]:
    return {"name": TIER, "backends": [{"kind": "http", "url": f"{upstream_url}/v1", "model": MODEL}]}


def _plan(v1: str, model: str, key: str, options: argparse.Namespace, **fields: Any) -> Plan:
    fields.setdefault("expected", _expected(None))
    return Plan(v1, model, key, seconds=options.seconds, tokens=scripted.DEFAULT_TOKENS, seed=options.seed, **fields)


def _expected(cache: str | None) -> Expected:
    """Word for word what the upstream said, and from the cache or not as the case may be.

    A stream must also come in as many chunks; the cache replays in a few large ones.
    """
    header = None if cache is None else ("x-farthing-cache", cache)
    tokens = scripted.DEFAULT_TOKENS
    return Expected(text=scripted.text(tokens), tokens=None if cache == "exact" else tokens, header=header)


def _contenders(upstream_url: str, ours: service.Service, options: argparse.Namespace) -> list[Contender]:
    hits = {"repeat": True, "nonce": "again and again"}
    return [
        Contender("direct", _plan(f"{upstream_url}/v1", MODEL, "", options)),
        Contender("gateway", _plan(ours.v1, TIER, ours.key, options, expected=_expected("miss"))),
        Contender("hits", _plan(ours.v1, TIER, ours.key, options, expected=_expected("exact"), **hits)),
    ]


def _completions(upstream_url: str) -> int:
    with urllib.request.urlopen(f"{upstream_url}/stats", timeout=10) as answer:
        return int(json.load(answer)["completions"])


def aims(results: Results, clients: Sequence[int]) -> list[Aim]:
    """The expected figures, all as ratios or differences inside this run."""
    many, one = max(clients), 1
    found = [
        Aim(f"unary x{many}: gateway req/s over LiteLLM's", _rps(results, "unary", many, "gateway", "litellm"), 15.0),
        Aim(f"stream x{many}: gateway req/s over LiteLLM's", _rps(results, "stream", many, "gateway", "litellm"), 30.0),
    ]
    for kind in KINDS:
        ratio = _rps(results, kind, many, "hits", "gateway")
        found.append(Aim(f"{kind} x{many}: exact hits req/s over proxied", ratio, 2.0))
    for kind in KINDS:
        added = results.difference(Case(kind, one), LATENCY_P50_MS, "gateway", "direct")
        found.append(Aim(f"{kind} x{one}: p50 ms added to direct", added, at_most=3.0))
    return found


def _rps(results: Results, kind: str, clients: int, over: str, under: str) -> Spread | None:
    return results.ratio(Case(kind, clients), RPS, over, under)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--peer", choices=["litellm"], help="drive it in the same run; installed the first time")
    found.add_argument("--seconds", type=float, default=4.0, help="of each measurement (default: 4)")
    found.add_argument("--clients", type=counts, default=(1, 32), metavar="N,N", help="default: 1,32")
    found.add_argument("--rounds", type=positive, default=3, help="default: 3")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--out", metavar="FILE", help="keep the JSON here too")
    return found


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    return guarded("benchmarks.overhead", lambda folder: run(options, folder))


if __name__ == "__main__":
    sys.exit(main())
