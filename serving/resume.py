"""A stream that broke off, carried on by another engine: what the caller has seen goes back as the answer's beginning.

A rented box is taken without notice, in the middle of an answer. vLLM goes on from a given beginning
(`continue_final_message`), so the next engine reads prompt and beginning, and its first new token follows the last one
seen. Of our own engines alone: a provider has no such option, and its tokens cost money twice.

Tokens are counted as the engines count them: each says with every event what it has made so far
(`continuous_usage_stats`), which the caller does not see. Where one does not, events are counted instead.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import accumulate, takewhile
from typing import Any, Final

import orjson

from models.backend import Backend
from models.errors import DeadlineExceeded, FarthingError, StreamCut
from models.pool import Reply
from models.types import Call, Chunk, Json, Usage
from models.upstream.sse import payload, without_running_usage
from serving.cascade import suits
from serving.wire.assemble import event

MAX_TIMES: Final = 3  # of one answer: an answer that ends every engine is not to be sent to all of them
CHARS_A_TOKEN: Final = 4
_MORE_THAN_TEXT: Final = ("reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio")
_COUNTED: Final = ("max_completion_tokens", "max_tokens")
_BARRED: Final = ("logprobs", "continue_final_message", "echo", "min_tokens", "ignore_eos", "return_token_ids")


Ask = Callable[[Call, Backend], Awaitable[Reply]]
"""Finds an engine for a call that has this one's model, another than this one where there is another."""


def may_resume(call: Call) -> bool:
    """Whether an answer to this request can be carried on: it is one, of free text, and nothing but its text counts.

    Probabilities and token ids of a beginning that was given are not told again; a form that is forced upon an answer
    would be forced upon its rest.
    """
    body = call.body
    if not call.stream or call.endpoint != "chat/completions" or any(body.get(name) for name in _BARRED):
        return False
    return suits(body) and not (body.get("stream_options") or {}).get("continuous_usage_stats")


def counted(call: Call) -> Call:
    """The call, which asks to be told with every event how many tokens it took so far."""
    options = {**(call.body.get("stream_options") or {}), "continuous_usage_stats": True}
    return replace(call, body={**call.body, "stream_options": options})


@dataclass(slots=True)
class _Seen:
    """What a stream has said so far. `head`: the first chunk's fields, which all later ones repeat; `usage`: as last
    told with an event, None where the engine does not count along.

    `plain` is false where there was more than text. White space at the end is not given back, since chat templates may
    take it off: the model says it again, unheard.
    """

    head: Json = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    chars: int = 0
    usage: Usage | None = None
    marks: list[tuple[int, int]] = field(default_factory=list)  # after an event: characters, and tokens as told
    plain: bool = True
    ended: bool = False
    again: str = ""  # white space that has been seen, and that the rest may begin with
    tokens: int = 0  # of the beginning that is given back
    blank: int = 0  # of the white space after it, until the rest says it again

    def beginning(self) -> str:
        text = "".join(self.texts)
        begun = text.rstrip()
        self.again = text[len(begun) :]
        self.tokens = self._tokens_of(len(begun))
        self.blank = self._tokens_of(len(text)) - self.tokens
        return begun

    def _tokens_of(self, chars: int) -> int:
        """Of the first so many characters; estimated by events, of which each has one or more."""
        events = enumerate(accumulate(map(len, self.texts)), 1)
        marks = self.marks if self.usage is not None else [(end, max(at, end // CHARS_A_TOKEN)) for at, end in events]
        return next((tokens for end, tokens in marks if end >= chars), 0) if chars else 0

    def unheard(self, text: str) -> str:
        """A piece of the rest, without what was seen of it."""
        pairs = zip(text, self.again, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.again = self.again[same:] if same == len(text) else ""
        if same:
            self.blank = 0
        return text[same:]

    def whole(self, rest: Usage) -> Usage:
        """What the whole answer took, when what goes on from the beginning has taken `rest`: there the beginning was
        read as a part of the prompt, and made before."""
        known = self.usage is not None
        prompt = self.usage.input_tokens if self.usage is not None else max(0, rest.input_tokens - self.tokens)
        return replace(
            rest,
            input_tokens=prompt,
            cached_input_tokens=min(rest.cached_input_tokens, prompt),
            output_tokens=rest.output_tokens + self.tokens + self.blank,
            estimated=rest.estimated or not (known or self.tokens + self.blank == 0),
        )

    def read(self, data: bytes) -> None:
        try:
            for told in _events(data):
                self.head = self.head or {name: v for name, v in told.items() if name not in ("choices", "usage")}
                for choice in told.get("choices") or ():
                    self._look(choice)
                self._count(told)
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            self.plain = False

    def _look(self, choice: Json) -> None:
        delta = choice.get("delta") or {}
        if not _is_text(delta):
            self.plain = False
        elif text := delta.get("content"):
            self.texts.append(text)
            self.chars += len(text)
        self.ended = self.ended or bool(choice.get("finish_reason"))

    def _count(self, told: Json) -> None:
        self.usage = Usage.from_openai(told.get("usage"))
        if self.usage is not None:
            self.marks.append((self.chars, self.usage.output_tokens))


def _is_text(delta: Json) -> bool:
    return isinstance(delta.get("content") or "", str) and not any(delta.get(name) for name in _MORE_THAN_TEXT)


def _events(data: bytes) -> list[Any]:
    return [orjson.loads(payload(part + b"\n\n")) for part in data.split(b"\n\n") if part]


async def unbroken(reply: Reply, call: Call, ask: Ask, resumed: Callable[[Reply], None]) -> AsyncGenerator[Chunk, None]:
    """The chunks of `reply`; where it breaks off, those of the replies that go on from there, as one stream.

    `resumed` is told of each reply that took over. Raises what the stream raises, and the break itself where nobody can
    go on. Usage is that of the whole answer so far, marked as estimated where an engine has not counted along.
    """
    parts: list[bytes] = []
    times = 0
    while True:
        assert reply.chunks is not None
        try:
            async with aclosing(reply.chunks) as chunks:
                async for chunk in chunks:
                    if chunk.data:
                        parts.append(chunk.data)
                    yield Chunk(without_running_usage(chunk.data), chunk.content, chunk.usage, chunk.running)
            return
        except StreamCut as cut:
            seen = _Seen()
            seen.read(b"".join(parts))
            times += 1
            if seen.ended:
                return  # it was all there; only its usage is missing
            begun = seen.beginning()
            if times > MAX_TIMES or not seen.plain:
                raise
            try:
                again = _going_on(call, begun, seen.tokens) if begun else call
                reply = await ask(again, reply.backend)
            except DeadlineExceeded:
                raise
            except FarthingError as exc:
                raise cut from exc  # that the last one asked was busy is no news to the caller
            resumed(reply)
            assert reply.chunks is not None
            reply.chunks = _joined(reply.chunks, seen)


def _going_on(call: Call, begun: str, tokens: int) -> Call:
    body: dict[str, Any] = {**call.body, "continue_final_message": True, "add_generation_prompt": False}
    body["messages"] = [*call.body["messages"], {"role": "assistant", "content": begun}]
    for name in _COUNTED:
        if body.get(name) is not None:
            body[name] = max(1, body[name] - tokens)
    return replace(call, body=body)


async def _joined(chunks: AsyncGenerator[Chunk, None], seen: _Seen) -> AsyncGenerator[Chunk, None]:
    """Under the first stream's id, without a second beginning."""
    async with aclosing(chunks):
        async for chunk in chunks:
            try:
                data = b"".join(map(event, filter(None, (_renamed(told, seen) for told in _events(chunk.data)))))
            except (orjson.JSONDecodeError, AttributeError, TypeError) as exc:
                raise StreamCut("the answer broke off: what should carry it on is no stream of text") from exc
            rest = chunk.used()
            usage = seen.whole(rest) if rest is not None else None
            if data or usage is not None:
                yield Chunk(data, chunk.content, usage)


def _renamed(told: Json, seen: _Seen) -> Json | None:
    """None for the event that only names the role: it has been said. Raises TypeError for what is no text: an engine
    that takes the rest for reasoning or a call hides a part of the answer."""
    for choice in told.get("choices") or ():
        delta = choice.get("delta") or {}
        if not _is_text(delta):
            raise TypeError("more than text")
        delta.pop("role", None)
        if seen.again and delta.get("content"):
            delta["content"] = seen.unheard(delta["content"])
        if not any(delta.values()) and not choice.get("finish_reason"):
            return None
    rest = Usage.from_openai(told.pop("usage", None))
    so_far = seen.whole(rest) if rest is not None else None
    counts = {"usage": so_far.to_openai()} if so_far is not None and not so_far.estimated else {}
    return {**told, **seen.head, **counts}
