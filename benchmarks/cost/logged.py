"""One's own traffic as a workload: what `python -m serving export` wrote, with or without kept texts.

With `--texts` the export has the conversations and answers of the requests whose texts were kept: those are asked and
replayed. The others have times, lengths and a hash of their prompt, and are asked in filler of as many tokens; equal
prompts become equal filler, so that repeats stay repeats. Tools, forced formats and sampling settings are not asked
again: the export does not have them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.child import BenchmarkError
from benchmarks.cost.filler import facts_of, text
from benchmarks.cost.workload import Answer, Request, Workload, conversation, objects

STATUSES: Final = ("answered", "cached", "coalesced")
OWN_PACE_S: Final = 3600.0
"""The longest log that is driven at its own pace unasked: nobody waits a week for a table."""
Row = Mapping[str, Any]


def read(path: Path, models: Sequence[str], rps: float | None, count: int | None) -> Workload:
    """The first `count` answered chat requests, in order; `rps` None: at their own pace. Raises BenchmarkError."""
    try:
        return _workload(path, models, rps, count)
    except (KeyError, TypeError, ValueError) as exc:
        raise BenchmarkError(f"{path} is not what `python -m serving export` writes ({exc!r})") from exc


def _workload(path: Path, models: Sequence[str], rps: float | None, count: int | None) -> Workload:
    rows: list[Row] = [row for _, row in objects(path) if row.get("status") in STATUSES]
    rows = [row for row in rows if row.get("endpoint") == "chat/completions"]
    rows = sorted(rows, key=lambda row: int(row["at_ms"]))[:count]
    if len(rows) < 2:
        raise BenchmarkError(f"{path} has no two answered chat requests: `python -m serving export` writes such a file")
    scale, own_rps = _pace(path, rows, rps)
    best = _best(rows)
    asked = {question: _messages(row, question) for question, row in best.items()}
    requests: list[Request] = []
    seen: set[str] = set()
    for row in rows:
        question = _question(row)
        kind = "repeat" if question in seen else "new"
        at_s = round((int(row["at_ms"]) - int(rows[0]["at_ms"])) / 1000 * scale, 4)
        place: dict[str, Any] = {"kind": kind, "tenant": str(row["tenant"]), "max_tokens": _output(best[question])}
        requests.append(Request(str(row["request_id"]), at_s, asked[question], question, **place))
        seen.add(question)
    facts = facts_of(requests, f"the ledger's export {path.name}", rps or own_rps)
    facts["with_texts"] = round(sum(_conversation(row) is not None for row in rows) / len(rows), 4)
    answers = [_answer(row, question, model) for question, row in best.items() for model in models]
    return Workload("yours", requests, answers, facts)


def _pace(path: Path, rows: Sequence[Row], rps: float | None) -> tuple[float, float]:
    """By how much its times are stretched, and its own requests a second."""
    span_s = (int(rows[-1]["at_ms"]) - int(rows[0]["at_ms"])) / 1000
    if rps is None and not 0 < span_s <= OWN_PACE_S:
        raise BenchmarkError(f"{path}: {len(rows)} requests in {span_s:,.0f} s; say how fast to ask them, with --rps")
    span_s = max(span_s, 1e-3)
    return (1.0 if rps is None else len(rows) / rps / span_s), len(rows) / span_s


def _question(row: Row) -> str:
    """What one answer serves. By the words that are asked where there are some: redaction makes prompts equal."""
    known = _conversation(row)
    return str(row.get("prompt_sha256") or row["request_id"]) if known is None else conversation(known)


def _best(rows: Sequence[Row]) -> dict[str, Row]:
    """For each question the row that tells most: an answer's text, else an answer's own tokens, which no hit has."""
    found: dict[str, Row] = {}
    for row in rows:
        question = _question(row)
        if question not in found or _tells(row) > _tells(found[question]):
            found[question] = row
    return found


def _tells(row: Row) -> tuple[bool, bool]:
    return bool(row.get("answer_text")), row["status"] == "answered"


def _conversation(row: Row) -> list[dict[str, Any]] | None:
    """None where no text was kept, or one that cannot be asked again: pictures left only their type behind."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not any(message.get("role") == "user" for message in messages):
        return None
    parts = [part for m in messages if isinstance(m.get("content"), list) for part in m["content"]]
    return messages if all(part.get("type") == "text" for part in parts) else None


def _messages(row: Row, question: str) -> list[dict[str, Any]]:
    known = _conversation(row)
    return known or [{"role": "user", "content": text(f"prompt/{question}", int(row["input_tokens"]))}]


def _output(row: Row) -> int:
    return max(1, int(row["output_tokens"]))


def _answer(row: Row, question: str, model: str) -> Answer:
    said = row.get("answer_text") or text(f"answer/{question}", _output(row))
    return Answer(question, model, said, int(row["input_tokens"]), _output(row))
