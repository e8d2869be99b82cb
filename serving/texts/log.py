"""Keeping texts: from an ended request to a redacted record in the ledger's database.

The request path leaves a reference in a bounded queue and goes on; a thread redacts and writes. What is in the queue
when a process dies is lost, which costs nothing: the request's row is the journal's. Nothing unredacted is ever written
or logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from models.types import Json
from serving.job import Job, Outcome
from serving.ledger.texts import Kept
from serving.texts.redact import Redactor
from serving.texts.settings import Texts
from serving.wire.assemble import assemble
from serving.wire.request import Asked

WRITE_EVERY_S = 1.0
MAX_WAITING_BYTES = 32 << 20
_MESSAGE_FIELDS = ("role", "name", "content", "tool_calls", "tool_call_id")  # no other one is kept

log = logging.getLogger(__name__)

Save = Callable[[Sequence[Kept]], int]
"""How many were written: not those of a tenant deleted meanwhile. Blocks; called in a thread."""


class Counts(Protocol):
    """serving.telemetry.GatewayMetrics, as far as texts are concerned."""

    def texts(self, outcomes: Mapping[str, int], redacted: Mapping[str, int]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What is held of an ended request, mostly references. A cached or shared answer is not held, nor is a picture."""

    request_id: str
    at_ms: int
    tenant: str
    messages: list[Json]
    answer: Outcome | None
    tools: bool


@dataclass(slots=True)
class TextLog:
    """One per gateway replica. `keep` is called on the event loop; `keep_writing` runs beside it."""

    settings: Texts
    save: Save
    counts: Counts
    _waiting: list[_Waiting] = field(default_factory=list)
    _waiting_bytes: int = 0
    _outcomes: Counter[str] = field(default_factory=Counter)
    _redactor: Redactor = field(init=False)

    def __post_init__(self) -> None:
        self._redactor = Redactor(self.settings.patterns)

    def keep(self, job: Job, outcome: Outcome | None) -> None:
        """Whatever the request's end. `outcome`: an answer made for it; None where there is none or it is another's.

        What may not leave this machine is not kept: kept texts are there to be exported and asked of other models.
        """
        row, asked = job.row, job.asked
        if not self.settings.wants(row.request_id, row.tenant, row.key_id):
            return
        if not asked.options.keep_text or asked.options.local_only:
            self._outcomes["opted_out"] += 1
            return
        most_bytes = self.settings.max_kib * 1024
        answer = outcome if outcome is not None and outcome.opening.hit is None else None
        answer_bytes = _size_bytes(answer) if answer is not None else 0
        if asked.prompt_chars > most_bytes:
            self._outcomes["too_long"] += 1
        elif (messages := messages_of(asked)) is None:
            self._outcomes["no_text"] += 1
        elif (prompt_bytes := len(orjson.dumps(messages))) > most_bytes:  # names and ids are no `prompt_chars`
            self._outcomes["too_long"] += 1
        elif self._waiting_bytes + prompt_bytes + answer_bytes > MAX_WAITING_BYTES:
            self._outcomes["queue_full"] += 1
        else:
            self._waiting.append(_Waiting(row.request_id, row.at_ms, row.tenant, messages, answer, asked.tools))
            self._waiting_bytes += prompt_bytes + answer_bytes

    async def keep_writing(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits. A batch that the database refuses is dropped and counted."""
        waiting, outcomes = self._waiting, self._outcomes
        self._waiting, self._waiting_bytes, self._outcomes = [], 0, Counter()
        redacted: Counter[str] = Counter()
        if waiting:
            outcomes += await asyncio.to_thread(self._write, waiting, redacted)
        if outcomes:
            self.counts.texts(outcomes, redacted)

    def _write(self, waiting: Sequence[_Waiting], redacted: Counter[str]) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        kept: list[Kept] = []
        for one in waiting:
            try:
                record = self._record(one, redacted)
            except Exception as exc:  # noqa: BLE001 - one odd text must not cost the others; its words are not logged
                log.warning(
                    "the texts of %s could not be redacted and are not kept: %s", one.request_id, type(exc).__name__
                )
                outcomes["failed"] += 1
                continue
            if record.size_bytes > self.settings.max_kib * 1024:
                outcomes["too_long"] += 1
            else:
                kept.append(record)
        try:
            written = self.save(kept)
        except Exception as exc:  # noqa: BLE001 - the database's edge: texts may be lost, a message could quote them
            log.warning("%d texts could not be written and are dropped: %s", len(kept), type(exc).__name__)
            return outcomes + Counter(dropped=len(kept))
        return outcomes + Counter(kept=written, deleted=len(kept) - written)

    def _record(self, one: _Waiting, redacted: Counter[str]) -> Kept:
        messages = [self._redactor.redact_json(_with_arguments(message), redacted) for message in one.messages]
        answer = _answer_text(one.answer)
        if answer is not None:
            answer = self._redactor.redact(answer, redacted)
        size_bytes = len(orjson.dumps(messages)) + len((answer or "").encode())
        return Kept(one.request_id, one.at_ms, one.tenant, messages, answer, one.tools, size_bytes)


def messages_of(asked: Asked) -> list[Json] | None:
    """The conversation, of a picture or a sound only that there was one; a text completion's prompts as the user's
    messages. None where token ids are among them."""
    if asked.endpoint == "chat/completions":
        return [_bare(message) for message in asked.body["messages"]]
    given = asked.body["prompt"]
    prompts = [given] if isinstance(given, str) else given
    if not all(isinstance(prompt, str) for prompt in prompts):
        return None
    return [{"role": "user", "content": prompt} for prompt in prompts]


def _bare(message: Json) -> Json:
    found = {name: message[name] for name in _MESSAGE_FIELDS if message.get(name)}
    if message["role"] != "assistant":  # nobody has looked at what stands there
        found.pop("tool_calls", None)
    if isinstance(parts := found.get("content"), list):
        found["content"] = [
            {"type": "text", "text": part["text"]} if part["type"] == "text" else {"type": part["type"]}
            for part in parts
        ]
    return found


def _with_arguments(message: Json) -> Json:
    if "tool_calls" not in message:
        return message
    return message | {"tool_calls": [_opened(call) for call in message["tool_calls"]]}


def _opened(call: Json) -> Json:
    """A tool call with its arguments as JSON: in a string of JSON an `@` may be written as an escape."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return call | {"function": function | {"arguments": orjson.loads(function["arguments"])}}
    except orjson.JSONDecodeError:
        return call


def _answer_text(outcome: Outcome | None) -> str | None:
    """What the first choice says; None for an answer that is not whole or says nothing. Alters nothing."""
    if outcome is None:
        return None
    body = outcome.body if outcome.body is not None else assemble(outcome.events)
    if body is None:
        return None
    first = body["choices"][0]
    text = first.get("text") if "text" in first else (first.get("message") or {}).get("content")
    return text if isinstance(text, str) and text else None


def _size_bytes(outcome: Outcome) -> int:
    return len(outcome.events) or outcome.usage.output_tokens * 4
