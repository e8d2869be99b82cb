"""Workloads whose texts are not known, only their lengths: real traffic traces.

Prompts and answers are filler of as many tokens (three-letter words: about one token and four characters each);
arrivals, lengths and, where the source tells, repeats are real. Every tier is taken to answer in as many tokens as
the source says. There is nothing to grade.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.child import BenchmarkError
from benchmarks.cost.mixing import FRAMES, Mix
from benchmarks.cost.workload import Answer, Request, Workload, objects

WORDS: Final = (
    *("ant", "arm", "bay", "bed", "box", "bus", "cap", "car", "cat", "cow", "cup", "day", "dog", "ear", "egg", "eye"),
    *("fan", "fig", "fox", "gas", "gem", "hat", "hen", "hut", "ice", "ink", "jam", "jar", "key", "kit", "lab", "leg"),
    *("map", "mud", "net", "nut", "oak", "oil", "owl", "pan", "pen", "pie", "pot", "ram", "red", "rod", "sea", "ski"),
    *("sky", "sun", "tap", "tea", "toe", "toy", "urn", "van", "web", "wig", "yak", "yam", "zip", "zoo", "log", "lid"),
)
TRACE_FORMATS: Final = "Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens) or Mooncake's JSONL"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace."""

    at_s: float
    input_tokens: int
    output_tokens: int


def text(seed: str, tokens: int) -> str:
    """So many words, the same for the same seed."""
    return " ".join(random.Random(seed).choices(WORDS, k=max(1, tokens)))


def read_trace(path: Path) -> list[Arrival]:
    """In order of time, from 0. Raises BenchmarkError."""
    name = path.name.removesuffix(".gz")
    try:
        found = list(_azure(path) if name.endswith(".csv") else _mooncake(path))
    except (KeyError, ValueError, TypeError, OSError, EOFError) as exc:
        raise BenchmarkError(f"{path} is no trace: {TRACE_FORMATS} is expected ({exc!r})") from exc
    if not found:
        raise BenchmarkError(f"{path} is empty")
    first_s = min(arrival.at_s for arrival in found)
    return sorted((replace(a, at_s=a.at_s - first_s) for a in found), key=lambda a: a.at_s)


def _azure(path: Path) -> Iterator[Arrival]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for row in csv.DictReader(io.StringIO(data.decode())):
        at = datetime.datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=datetime.UTC)
        yield Arrival(at.timestamp(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _mooncake(path: Path) -> Iterator[Arrival]:
    for _, row in objects(path):
        yield Arrival(float(row["timestamp"]) / 1000, int(row["input_length"]), int(row["output_length"]))


def traffic(path: Path, mix: Mix, count: int | None, models: Sequence[str], max_input_tokens: int) -> Workload:
    """The trace's first `count` requests that are short enough, stretched to `mix.rps`, with repeats mixed in.

    A repeat takes the place of the trace's own request, so that arrivals stay the trace's.
    """
    mix.check()
    trace = read_trace(path)
    short = [a for a in trace if a.input_tokens <= max_input_tokens][:count]
    if len(short) < 2:
        raise BenchmarkError(f"{path}: fewer than two requests of at most {max_input_tokens:,} tokens")
    rng = random.Random(f"traffic/{mix.seed}")
    scale = len(short) / mix.rps / max(1e-9, short[-1].at_s)
    requests: list[Request] = []
    answers: list[Answer] = []
    for number, arrival in enumerate(short):
        draw, deferrable = rng.random(), rng.random() < mix.deferrable_share
        place: dict[str, Any] = {"id": f"traffic/{number}", "deferrable": deferrable}
        place["arrival_s"] = round(arrival.at_s * scale, 4)
        if requests and draw < mix.repeat_rate + mix.paraphrase_rate:
            earlier = rng.choice(requests)
            again = "repeat" if draw < mix.repeat_rate else "paraphrase"
            requests.append(_again(earlier, again, rng, place))
            continue
        prompt = text(f"{mix.seed}/{number}", arrival.input_tokens)
        message = {"role": "user", "content": prompt}
        requests.append(Request(messages=[message], question=f"traffic/{number}", **place))
        answers += _answers(f"traffic/{number}", models, arrival.input_tokens, arrival.output_tokens)
    facts = facts_of(requests, f"arrivals and lengths of {path.name}", mix.rps)
    facts["trace_requests_left_out_as_too_long"] = sum(a.input_tokens > max_input_tokens for a in trace) / len(trace)
    return Workload("traffic", requests, answers, facts)


def _again(earlier: Request, kind: str, rng: random.Random, place: dict[str, Any]) -> Request:
    words = earlier.text
    if kind == "paraphrase" and earlier.kind != "paraphrase":
        words = rng.choice(FRAMES).format(q=words)
    message = {"role": "user", "content": words}
    return Request(messages=[message], question=earlier.question, kind=kind, **place)  # type: ignore[arg-type]


def _answers(question: str, models: Sequence[str], input_tokens: int, output_tokens: int) -> list[Answer]:
    said = text(f"answer/{question}", output_tokens)
    return [Answer(question, model, said, input_tokens, max(1, output_tokens)) for model in models]


def facts_of(requests: Sequence[Request], source: str, rps: float) -> dict[str, Any]:
    return {
        "source": source,
        "requests": len(requests),
        "repeats": round(sum(r.kind == "repeat" for r in requests) / len(requests), 4),
        "paraphrases": round(sum(r.kind == "paraphrase" for r in requests) / len(requests), 4),
        "offered_rps": round(rps, 4),
    }
