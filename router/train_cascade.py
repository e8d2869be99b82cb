"""`python -m router train-cascade`: from graded answers of the small model, with its tokens, to a cascade's artifact.

One JSON object a line, gzip or plain: `id`, `prompt`, `correct` (0..1), `tokens`, a list of
`[logprob, logprobs of the likeliest, best first...]`, and optionally `group`, the unit of splitting.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from router import features as prompt_features
from router import tables
from router.artifacts import Manifest
from router.cascade import KIND, WHOLE, Head, Heads, Token, features
from router.curves import auroc
from router.decision import Facts
from router.deployed import Deployed, scored_by, today
from router.embedding.minilm import load_default
from router.estimators.base import Floats, Inputs
from router.outcomes import data_sha256, objects
from router.policy import RULES
from router.rules import shape
from router.train import say
from router.vectors import embed

TOKENS: Final = (4, 8, 16, 32)
FOLDS: Final = 5
MIN_ROWS: Final = 100
BINS: Final = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--generations", type=Path, nargs="+", required=True, metavar="FILE", help="graded answers")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="artifacts live here")
    parser.add_argument(
        "--artifact", type=Path, metavar="DIR", help="the router whose score joins (default: the rules)"
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS), metavar="K", help="when to look")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep embeddings here between runs")


@dataclass(frozen=True, slots=True)
class Generations:
    """Parallel columns of n graded answers."""

    ids: list[str]
    groups: NDArray[np.str_]
    prompts: list[str]
    tokens: list[list[Token]]
    correct: Floats

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Generations:
        """Raises ConfigError with file and line."""
        rows = [_row(data, f"{path}:{number}") for path in paths for number, data in objects(path)]
        if len({row[0] for row in rows}) != len(rows):
            raise ConfigError("some ids occur twice: is the same file given twice?")
        ids, groups, prompts, tokens, correct = zip(*rows, strict=True) if rows else ([], [], [], [], [])
        return cls(list(ids), np.array(groups), list(prompts), list(tokens), np.array(correct, np.float64))

    def of_groups(self, names: Sequence[str] | None) -> Generations:
        """All where none are named."""
        at = [i for i, group in enumerate(self.groups.tolist()) if not names or group in names]
        if not at:
            raise ConfigError("no answer is of these groups")
        ids, prompts = [self.ids[i] for i in at], [self.prompts[i] for i in at]
        return Generations(ids, self.groups[at], prompts, [self.tokens[i] for i in at], self.correct[at])

    def rows(self, tokens_k: int, scores: Floats) -> Floats:
        """(n, features) after `tokens_k` tokens, or of whole answers."""
        found = []
        for tokens, score in zip(self.tokens, scores, strict=True):
            found.append(features(tokens[: tokens_k or None], float(score)))
        return np.array(found)

    def longer_than(self, tokens_k: int) -> NDArray[np.bool_]:
        return np.array([len(tokens) > tokens_k for tokens in self.tokens], bool)

    def folds(self) -> NDArray[np.int64]:
        """By hash of the prompt: the same everywhere, and no prompt on both sides."""
        return np.array([int(hashlib.sha256(p.encode()).hexdigest(), 16) % FOLDS for p in self.prompts], np.int64)


def _row(data: dict[str, Any], where: str) -> tuple[str, str, str, list[Token], float]:
    try:
        tokens = [Token(float(one[0]), tuple(map(float, one[1:]))) for one in data["tokens"]]
        row = (str(data["id"]), str(data.get("group") or ""), str(data["prompt"]), tokens, float(data["correct"]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{where}: {error!r}; docs/cascade.md lists the fields") from error
    if not tokens or not 0.0 <= row[4] <= 1.0:
        raise ConfigError(f"{where}: an answer has at least one token, and is right by 0 to 1")
    return row


def run(arguments: argparse.Namespace) -> int:
    made = Generations.read(arguments.generations)
    if len(made) < MIN_ROWS:
        raise ConfigError(f"{len(made)} graded answers are too few to learn from; at least {MIN_ROWS}")
    if min(arguments.tokens) < 1:
        raise ConfigError("--tokens are counts of tokens, at least 1")
    scores, by, encoder_sha256 = prompt_scores(made, arguments.artifact, arguments.cache)
    folds = made.folds()
    figures, heads = {}, {}
    for tokens_k in [*sorted(set(arguments.tokens)), WHOLE]:
        rows = made.rows(tokens_k, scores)
        fits = made.longer_than(tokens_k)  # shorter answers have ended by then: the whole head judges them
        if fits.sum() < MIN_ROWS:
            say(f"{tokens_k} tokens: {fits.sum()} answers are longer; too few, left out")
            continue
        heads[tokens_k] = Head.fit(rows[fits], made.correct[fits])
        figures[str(tokens_k)] = quality(out_of_fold(rows, made.correct, folds, fits), made.correct[fits])
    table = [["tokens", "answers", "right", "AUROC", "Brier", "of the base rate", "calibration error"]]
    print(tables.text_table(table + [_line(tokens_k, one) for tokens_k, one in figures.items()]))
    metrics = {"rows": len(made), "right": round(float(made.correct.mean()), 4), "heads": figures}
    manifest = Manifest(KIND, "", today(), encoder_sha256, data_sha256(arguments.generations), metrics)
    print(f"{Heads(manifest, heads, by).write(arguments.out)} is current")
    return 0


def prompt_scores(made: Generations, artifact: Path | None, cache: Path | None) -> tuple[Floats, str, str]:
    """(scores, whose they are, the encoder's hash): what a `CascadePlan` of the running service would have said."""
    if artifact is None:
        found = [shape(_facts(prompt)).score for prompt in made.prompts]
        return np.array(found), RULES, ""
    encoder = load_default()
    deployed = Deployed.load(artifact, encoder.identity.sha256)
    inputs = Inputs(embed(made.prompts, encoder, cache, say), prompt_features.of_texts(made.prompts))
    return 1.0 - deployed.stack.predict(inputs)[:, 0], scored_by(deployed.manifest), encoder.identity.sha256


def _facts(prompt: str) -> Facts:
    return Facts(
        request_id="", tenant="", text=prompt, prompt_chars=len(prompt), prompt_tokens=max(1, len(prompt) // 4)
    )


def out_of_fold(rows: Floats, right: Floats, folds: NDArray[np.int64], fits: NDArray[np.bool_]) -> Floats:
    """Probabilities of the rows in `fits`, each by a head that has not seen its fold."""
    found = np.full(len(rows), np.nan)
    for fold in np.unique(folds):
        test = fits & (folds == fold)
        if test.any():
            found[test] = Head.fit(rows[fits & (folds != fold)], right[fits & (folds != fold)]).probability(rows[test])
    return found[fits]


def quality(probability: Floats, right: Floats) -> dict[str, float]:
    """brier_base: of always saying the base rate. calibration_error: mean gap between said and seen over ten equal
    bins of the said, weighted by rows."""
    base = float(right.mean())
    error = 0.0
    for part in np.array_split(np.argsort(probability, kind="stable"), BINS):
        if len(part):
            error += len(part) / len(right) * abs(float(probability[part].mean() - right[part].mean()))
    figures = {
        "answers": float(len(right)),
        "right": base,
        "auroc": auroc(probability, right > 0.5),
        "brier": float(((probability - right) ** 2).mean()),
        "brier_base": base * (1.0 - base),
        "calibration_error": error,
    }
    return {name: round(value, 4) for name, value in figures.items()}


def _line(tokens_k: str, one: dict[str, float]) -> list[str]:
    shown = [f"{one[name]:.3f}" for name in ("right", "auroc", "brier", "brier_base", "calibration_error")]
    return ["whole" if tokens_k == str(WHOLE) else tokens_k, f"{one['answers']:.0f}", *shown]
