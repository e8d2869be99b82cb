"""`python -m router profile`: what the traffic is about, what it costs, and what of it looks routine.

Reads the rows that `python -m serving export` writes. Topics come from clustering the prompts' embeddings, so they need
`text`; rows without one are in a topic of their own, with the cost they have.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from router import features, profile_page, tables
from router.deployed import PRIOR, Deployed
from router.embedding.minilm import load_default
from router.estimators.base import Floats, Inputs
from router.estimators.clusters import nearest, spherical_kmeans
from router.outcomes import objects
from router.train import positive, say
from router.vectors import embed

NO_TEXT: Final = "(no text kept)"
NUSD_PER_USD: Final = 1e9
ROUTINE_GAIN: Final = 0.5  # of the threshold: far below it the frontier adds little
WORDS_IN_NAME: Final = 4
OUR_TAGS: Final = frozenset({"label", "judge"})
FIELDS: Final = ("at_ms", "status", "route", "input_tokens", "output_tokens", "cost_nusd")  # of every exported row
_WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Parallel columns of n requests. cost_usd: as the ledger has it. text: empty where it was not kept."""

    texts: list[str]
    prompts: list[str]  # a hash of each prompt, for counting repeats
    routes: list[str]
    hours: NDArray[np.int64]  # since the first request
    input_tokens: Floats
    output_tokens: Floats
    cost_usd: Floats

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Topic:
    """share: of requests. repeats: part of them whose prompt had come before. gain: mean, as the router sees it.

    routine: repeated wording or little to gain, so that a cache or the small model should do.
    """

    name: str
    example: str
    share: float
    requests: int
    input_tokens: float
    output_tokens: float
    cost_usd: float
    repeats: float
    first_tier: float
    gain: float
    routine: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--traffic", type=Path, required=True, metavar="FILE", help="from `python -m serving export`")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page with plots, in one file")
    parser.add_argument(
        "--topics", type=positive, metavar="N", help="how many (default: by the square root of the prompts)"
    )
    parser.add_argument("--artifact", type=Path, default=PRIOR, metavar="DIR", help="whose score (default: the prior)")
    parser.add_argument("--small", default="small", metavar="TIER", help="the tier whose share is shown")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep embeddings here between runs")


def run(arguments: argparse.Namespace) -> int:
    traffic = read(arguments.traffic)
    encoder = load_default()
    deployed = Deployed.load(arguments.artifact, encoder.identity.sha256)
    kept = np.array([bool(text) for text in traffic.texts])
    texts = [text for text in traffic.texts if text]
    vectors = embed(texts, encoder, arguments.cache, say)
    gains = np.full(len(traffic), np.nan)
    member = np.full(len(traffic), -1)
    if texts:
        gains[kept] = deployed.gain(Inputs(vectors, features.of_texts(texts)))
        distinct = len(set(texts))
        count = arguments.topics or max(2, min(40, round(distinct**0.5 / 1.5)))
        centroids = spherical_kmeans(vectors, min(count, distinct))
        member[kept] = nearest(vectors, centroids)
    topics = topics_of(traffic, member, gains, deployed.policy.threshold, arguments.small)
    print(summary(traffic))
    print(table(topics))
    if arguments.html is not None:
        arguments.html.write_text(profile_page.render(summary(traffic), topics, traffic), encoding="utf-8")
        say(f"{arguments.html} written")
    return 0


def read(path: Path) -> Traffic:
    """Answered requests; failed and refused ones, and those this project sent itself, are left out. Raises ConfigError
    for a file without any, and for one of something else: its counts would all be 0, which reads like a result."""
    try:
        rows = [row for number, row in objects(path) if _is_traffic(row, f"{path}:{number}")]
        if not rows:
            raise ConfigError(f"{path} holds no answered request; write it with `python -m serving export -o {path}`")
        return _columns(rows)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path} is not as `python -m serving export` writes it: {error}") from error


def _columns(rows: Sequence[dict[str, Any]]) -> Traffic:
    at_ms = np.array([int(row.get("at_ms") or 0) for row in rows], np.int64)
    return Traffic(
        texts=[str(row.get("text") or "") for row in rows],
        prompts=[_prompt(row, number) for number, row in enumerate(rows)],
        routes=[str(row.get("route") or "") for row in rows],
        hours=(at_ms - at_ms.min()) // 3_600_000,
        input_tokens=_column(rows, "input_tokens"),
        output_tokens=_column(rows, "output_tokens"),
        cost_usd=_column(rows, "cost_nusd") / NUSD_PER_USD,
    )


def _is_traffic(row: dict[str, Any], where: str) -> bool:
    if missing := [name for name in FIELDS if name not in row]:
        raise ConfigError(f"{where}: no row of `python -m serving export [--texts]`: it has no {', '.join(missing)}")
    return row["status"] in ("answered", "cached", "coalesced") and not OUR_TAGS & set(row.get("tags") or ())


def _column(rows: Sequence[dict[str, Any]], name: str) -> Floats:
    return np.array([float(row.get(name) or 0) for row in rows])


def _prompt(row: dict[str, Any], number: int) -> str:
    if row.get("prompt_sha256"):
        return str(row["prompt_sha256"])
    text = row.get("text")
    return hashlib.sha256(str(text).encode("utf-8", "surrogatepass")).hexdigest() if text else f"row {number}"


def topics_of(traffic: Traffic, member: NDArray[np.int64], gains: Floats, threshold: float, small: str) -> list[Topic]:
    """Largest first. member: the topic of each request, -1 where there was no text."""
    common = Counter(word for text in traffic.texts for word in set(words(text)))
    found = [
        _topic(traffic, np.flatnonzero(member == number), gains, threshold, (common, small))
        for number in np.unique(member)
    ]
    return sorted(found, key=lambda topic: -topic.requests)


def _topic(
    traffic: Traffic, rows: NDArray[np.int64], gains: Floats, threshold: float, context: tuple[Counter[str], str]
) -> Topic:
    common, small = context
    prompts = [traffic.prompts[i] for i in rows]
    texts = [traffic.texts[i] for i in rows if traffic.texts[i]]
    repeats = 1.0 - len(set(prompts)) / len(prompts)
    gain = float(gains[rows].mean()) if texts else float("nan")
    return Topic(
        name=name_of(texts, common) if texts else NO_TEXT,
        example=" ".join(Counter(texts).most_common(1)[0][0].split())[:160] if texts else "",
        share=len(rows) / len(traffic),
        requests=len(rows),
        input_tokens=float(traffic.input_tokens[rows].mean()),
        output_tokens=float(traffic.output_tokens[rows].mean()),
        cost_usd=float(traffic.cost_usd[rows].sum()),
        repeats=repeats,
        first_tier=float(np.mean([traffic.routes[i] == small for i in rows])),
        gain=gain,
        routine=bool(texts) and (repeats >= 0.5 or gain < threshold * ROUTINE_GAIN),
    )


def name_of(texts: Sequence[str], common: Counter[str]) -> str:
    """The words that mark this topic out: frequent in it, rare in the rest."""
    inside = Counter(word for text in texts for word in set(words(text)))
    ranked = sorted(inside, key=lambda word: (-(inside[word] ** 2) / common[word], word))
    return " ".join(ranked[:WORDS_IN_NAME]) or "(no words)"


def words(text: str) -> list[str]:
    return _WORD.findall(text[: features.READ_CHARS].lower())


def summary(traffic: Traffic) -> str:
    repeats = 1.0 - len(set(traffic.prompts)) / len(traffic)
    tokens = int(traffic.input_tokens.sum() + traffic.output_tokens.sum())
    cost = float(traffic.cost_usd.sum())
    return (
        f"{len(traffic):,} answered requests, {tokens:,} tokens, ${cost:.4f} (${cost / len(traffic) * 1000:.4f} per "
        f"1,000), {repeats:.1%} asked before word for word"
    )


def table(topics: Sequence[Topic]) -> str:
    rows = [["topic", "share", "requests", "tokens in", "out", "USD", "repeats", "small", "gain", ""]]
    for topic in topics:
        gain = "-" if np.isnan(topic.gain) else f"{topic.gain:+.2f}"
        cells = [topic.name[:48], f"{topic.share:.1%}", f"{topic.requests:,}", f"{topic.input_tokens:.0f}"]
        cells += [
            f"{topic.output_tokens:.0f}",
            f"{topic.cost_usd:.4f}",
            f"{topic.repeats:.0%}",
            f"{topic.first_tier:.0%}",
        ]
        rows.append([*cells, gain, "routine" if topic.routine else ""])
    return tables.text_table(rows)
