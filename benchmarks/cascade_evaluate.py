"""What the small model's confidence is worth: AUROC by tokens read, quality at equal cost beside the prompt alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cascade_policies import BUDGETS, Policy, Requests, at_budgets, by_band, by_cascade, by_chance, by_prompt
from benchmarks.cost.options import above
from benchmarks.load import positive
from models.errors import ConfigError
from router import baselines, folds, plots, tables
from router.cascade import NAMES, WHOLE
from router.curves import auroc
from router.embedding.minilm import load_default
from router.estimators.base import Floats
from router.evaluation import Interval, resamples
from router.outcomes import Outcomes, Pair, data_sha256, objects
from router.train import say
from router.train_cascade import Generations, out_of_fold, quality
from router.training import ESTIMATORS, Samples, gain, sample, stacked
from router.training import out_of_fold as predicted_out_of_fold

READ: Final = (4, 8, 16, WHOLE)
BANDS: Final = (0.1, 0.25)
SHOWN: Final = (0.1, 0.25, 0.5, 0.75)
ALWAYS_RIGHT: Final = "always right"
TEMPLATE_TOKENS: Final = 10  # of a chat template around the question, which is counted by characters
SIGNALS: Final = ("mean", "low_quartile")
SPLITS: Final = ("seen", "unseen")
DRAWN: Final = {
    "random": ("#bbbbbb", 1.0), "prompt only": ("#1f6feb", 2.0), "cascade 4": ("#f0b0a8", 1.0),
    "cascade 8": ("#e07060", 1.0), "cascade 16": ("#b3261e", 2.2), "16, mean alone": ("#2e7d32", 1.0),
    "band ± 25%, 16": ("#8e24aa", 1.0), "oracle": ("#777777", 1.0),
}  # fmt: skip
Folds = NDArray[np.int64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", type=Path, required=True, metavar="FILE", help="generations of the small model")
    parser.add_argument("--strong", type=Path, metavar="FILE", help="of the strong one; default: one always right")
    parser.add_argument("--groups", nargs="*", metavar="GROUP", help="only tasks of these groups")
    parser.add_argument(
        "--ratio", type=above(0), nargs="+", default=[20.0, 100.0], help="prices of the strong model's token to look at"
    )
    parser.add_argument("--resamples", type=positive, default=2000)
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep embeddings here between runs")


@dataclass(frozen=True, slots=True)
class Known:
    """The data with what the prompt alone says of it, out of fold."""

    made: Generations
    outcomes: Outcomes
    folds: Folds
    prompt: Floats  # (n, 2): chances that small and strong are right
    weights: NDArray[np.float64]  # of the bootstrap

    def doing(self, tokens_k: int) -> Floats:
        """(n,) chance that the small answer will do, after so many tokens and with the prompt's score, out of fold."""
        return self._by_heads(tokens_k, 1.0 - self.prompt[:, 0])

    def worth(self, tokens_k: int) -> Floats:
        """That, less the chance that the strong one is right: what the service's rule looks at."""
        return self.doing(tokens_k) - self.prompt[:, 1]

    def doing_without_prompt(self, tokens_k: int) -> Floats:
        return self._by_heads(tokens_k, np.zeros(len(self.made)))

    def _by_heads(self, tokens_k: int, scores: Floats) -> Floats:
        """Answers that have ended by then are the whole head's, as in the service."""
        every, right = np.ones(len(self.made), bool), self.made.correct
        found = out_of_fold(self.made.rows(WHOLE, scores), right, self.folds, every)
        if tokens_k != WHOLE:
            longer = self.made.longer_than(tokens_k)
            found[longer] = out_of_fold(self.made.rows(tokens_k, scores), right, self.folds, longer)
        return found


def run(arguments: argparse.Namespace) -> int:
    made, outcomes = _read_both(arguments)
    samples = sample(outcomes, load_default(), arguments.cache, say)
    setting = _setting(arguments, outcomes)
    print(f"{setting['rows']} prompts of {setting['groups']} groups: {' and '.join(setting['pair'])}, "
          f"{setting['weak']:.1%} and {setting['strong']:.1%} right, only the second {setting['only_strong']:.1%}, "
          f"only the first {setting['only_weak']:.1%}")  # fmt: skip
    splits = [split for split in SPLITS if len(np.unique(_folds(split, outcomes))) > 1]
    if not splits:
        raise ConfigError("all answers are to one prompt: nothing can be held out")
    if len(splits) < len(SPLITS):
        say("one group only, or groups that share prompts: `unseen`, which holds whole groups out, is left out")
    found = {split: _known(made, samples, split, arguments.resamples) for split in splits}
    results = {split: _show(known, split, arguments.ratio) for split, known in found.items()}
    if arguments.png is not None:
        _draw(arguments.png, " and ".join(setting["pair"]), found, arguments.ratio[-1])
    head = {"benchmark": "cascade", **setting, "budgets": SHOWN, "resamples": arguments.resamples}
    print(json.dumps(head | {"splits": results}))
    return 0


def _read_both(arguments: argparse.Namespace) -> tuple[Generations, Outcomes]:
    made = Generations.read([arguments.small]).of_groups(arguments.groups)
    if len(np.unique(made.correct)) < 2:
        raise ConfigError("no small answer is right, or all are: there is nothing to tell apart")
    strong, name = np.ones(len(made)), ALWAYS_RIGHT
    if arguments.strong is not None:
        rows = {row["id"]: row for _, row in objects(arguments.strong)}
        if missing := [one for one in made.ids if one not in rows]:
            raise ConfigError(f"{arguments.strong} has no answer to {len(missing)} tasks, such as {missing[0]}")
        try:
            strong = np.array([float(rows[one]["correct"]) for one in made.ids])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{arguments.strong}: not every answer has its 'correct', 0 to 1 ({error!r})") from error
        name = str(rows[made.ids[0]].get("model") or "strong")
    small = next(str(row.get("model") or "small") for _, row in objects(arguments.small))
    return made, _outcomes(made, strong, Pair(small, name))


def _known(made: Generations, samples: Samples, split: str, count: int) -> Known:
    """split: `seen`, by prompt, as on one's own labelled traffic; `unseen`, whole groups held out."""
    seen, outcomes = split == "seen", samples.outcomes
    fold = _folds(split, outcomes)
    prompt = stacked(predicted_out_of_fold(ESTIMATORS, samples, fold, say), samples.labels, fold, seen=seen)
    return Known(made, outcomes, fold, prompt, resamples(outcomes.prompts, count).astype(float))


def _folds(split: str, outcomes: Outcomes) -> Folds:
    return (folds.seen if split == "seen" else folds.unseen)(outcomes)


def _requests(known: Known, ratio: float) -> Requests:
    lengths = np.array([len(tokens) for tokens in known.made.tokens], float)
    outcomes = known.outcomes
    return Requests(outcomes.weak, outcomes.strong, outcomes.prompt_tokens + TEMPLATE_TOKENS, lengths, ratio)


def _show(known: Known, split: str, ratios: Sequence[float]) -> dict[str, Any]:
    signals = _signals(known)
    print(f"\ngroups {split}: telling right small answers from wrong ones\n")
    print(tables.text_table([["tokens read", "signal", "AUROC", "95 %", "- prompt only", "95 %"], *_lines(signals)]))
    head = ["way", *(f"at {share:.0%}" for share in SHOWN), "area", "95 %", "- prompt only", "95 %", ""]
    ways = {}
    for ratio in ratios:
        requests = _requests(known, ratio)
        policies = _policies(known, requests)
        at = {name: at_budgets(policy, requests, known.weights) for name, policy in policies.items()}
        whole = {name: at_budgets(p, requests, np.ones((1, len(requests))))[0] for name, p in policies.items()}
        ways[f"{ratio:g}"] = compared = _compared(whole, at)
        print(f"\ngroups {split}: quality at equal cost, price ratio {ratio:g}\n")
        print(tables.text_table([head, *(_line(name, one) for name, one in compared.items())]), flush=True)
    heads = {_read(k): quality(known.doing(k), known.made.correct) for k in READ}
    return {"auroc": signals, "ways": ways, "heads": heads}


def _outcomes(made: Generations, strong: Floats, pair: Pair) -> Outcomes:
    chars = np.array([len(prompt) for prompt in made.prompts], float)
    unknown = np.full(len(made), np.nan)
    numbers: dict[str, int] = {}
    prompts = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in made.prompts], np.int64)
    return Outcomes(
        ids=made.ids, tasks=np.full(len(made), "cascade"), groups=made.groups, texts=made.prompts,
        prompts=prompts, chars=chars, weak=made.correct, strong=strong,
        prompt_tokens=chars / 4, weak_tokens=unknown, strong_tokens=unknown, pair=pair,
    )  # fmt: skip


def _setting(arguments: argparse.Namespace, outcomes: Outcomes) -> dict[str, Any]:
    return {
        "rows": len(outcomes),
        "groups": len(np.unique(outcomes.groups)),
        "pair": [outcomes.pair.weak, outcomes.pair.strong],
        "weak": round(float(outcomes.weak.mean()), 4),
        "strong": round(float(outcomes.strong.mean()), 4),
        "only_strong": round(float((outcomes.gain > 0.5).mean()), 4),
        "only_weak": round(float((outcomes.gain < -0.5).mean()), 4),
        "data_sha256": data_sha256([path for path in (arguments.small, arguments.strong) if path is not None]),
    }


def _read(tokens_k: int) -> str:
    return "whole" if tokens_k == WHOLE else str(tokens_k)


def _signals(known: Known) -> list[dict[str, Any]]:
    """How well each tells the right small answers from the wrong ones."""
    right = known.made.correct > 0.5
    by_prompt_alone = known.prompt[:, 0]
    found: list[tuple[str, str, Floats]] = [("0", "prompt only", by_prompt_alone)]
    for tokens_k in READ:
        rows = known.made.rows(tokens_k, np.zeros(len(known.made)))
        found += [(_read(tokens_k), name, rows[:, NAMES.index(name)]) for name in SIGNALS]
        found.append((_read(tokens_k), "entropy", -rows[:, NAMES.index("mean_entropy")]))
        found.append((_read(tokens_k), "head", known.doing_without_prompt(tokens_k)))
        found.append((_read(tokens_k), "head + prompt", known.doing(tokens_k)))
    drawn = [np.repeat(np.arange(len(right)), row.astype(int)) for row in known.weights[: len(known.weights) // 4]]
    base = np.array([auroc(by_prompt_alone[rows], right[rows]) for rows in drawn])
    signals = []
    for read, name, values in found:
        draws = np.array([auroc(values[rows], right[rows]) for rows in drawn])
        value, less = auroc(values, right), auroc(values, right) - auroc(by_prompt_alone, right)
        signals.append(
            {"read": read, "signal": name, "auroc": round(value, 4), "ci95": _pair(Interval.of(draws)),
             "less_prompt": round(less, 4), "less_ci95": _pair(Interval.of(draws - base))}
        )  # fmt: skip
    return signals


def _policies(known: Known, requests: Requests) -> dict[str, Policy]:
    up = gain(known.prompt)
    found = {
        "random": by_chance(requests),
        "length": by_prompt(requests, baselines.length(known.outcomes)),
        "prompt only": by_prompt(requests, up),
    }
    for tokens_k in READ:
        found[f"cascade {_read(tokens_k)}"] = by_cascade(requests, known.worth(tokens_k), tokens_k)
    found["16, fixed accept_at"] = by_cascade(requests, known.doing(16), 16)
    plain = known.made.rows(16, np.zeros(len(known.made)))[:, NAMES.index("mean")]
    found["16, mean alone"] = by_cascade(requests, plain, 16)
    for half in BANDS:
        found[f"band ± {half:.0%}, 16"] = by_band(requests, up, known.worth(16), 16, half)
    return found | {"oracle": by_prompt(requests, known.outcomes.gain / requests.strong_cost)}


def _compared(whole: Mapping[str, Floats], at: Mapping[str, Floats]) -> dict[str, dict[str, Any]]:
    """area: mean quality over equal steps of cost from always-small to always-strong."""
    found = {}
    for name, draws in at.items():
        less = Interval.of(draws.mean(axis=1) - at["prompt only"].mean(axis=1))
        found[name] = {
            "quality": [round(float(np.interp(share, BUDGETS, whole[name])), 4) for share in SHOWN],
            "area": round(float(whole[name].mean()), 4),
            "ci95": _pair(Interval.of(draws.mean(axis=1))),
            "less_prompt": round(float(whole[name].mean() - whole["prompt only"].mean()), 4),
            "less_ci95": _pair(less),
            "verdict": "better" if less.low > 0 else "worse" if less.high < 0 else "no difference shown",
        }
    return found


def _lines(signals: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [one["read"], one["signal"], f"{one['auroc']:.3f}", _span(one["ci95"]), f"{one['less_prompt']:+.3f}",
         _span(one["less_ci95"])]
        for one in signals
    ]  # fmt: skip


def _line(name: str, one: Mapping[str, Any]) -> list[str]:
    less = ["", "", ""] if name == "prompt only" else [
        f"{one['less_prompt']:+.4f}", _span(one["less_ci95"]), one["verdict"]
    ]  # fmt: skip
    return [name, *(f"{value:.3f}" for value in one["quality"]), f"{one['area']:.4f}", _span(one["ci95"]), *less]


def _pair(interval: Interval) -> list[float]:
    return [round(interval.low, 4), round(interval.high, 4)]


def _span(pair: list[float]) -> str:
    return f"[{pair[0]:.3f}, {pair[1]:.3f}]"


def _draw(path: Path, pair: str, found: Mapping[str, Known], ratio: float) -> None:
    drawn, panels = plots.figure(len(found))
    for axes, (split, known) in zip(panels, found.items(), strict=True):
        requests = _requests(known, ratio)
        low, high = float(requests.small_cost.mean()), float(requests.strong_cost.mean())
        for name, policy in _policies(known, requests).items():
            if name in DRAWN:
                colour, width = DRAWN[name]
                spent = (policy.cost.mean(axis=1) - low) / (high - low)
                axes.plot(spent, policy.right.mean(axis=1), label=name, color=colour, linewidth=width)
        axes.set(xlabel="cost, from always-small to always-strong", ylabel="quality", xlim=(0, 1.1))
        axes.set_title(f"{pair}\ngroups {split}, price ratio {ratio:g}", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    plots.save_png(drawn, path)
