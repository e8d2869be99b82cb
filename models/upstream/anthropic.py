"""Anthropic's Messages API behind the OpenAI-shaped `Backend`: the HTTP half; the translation is in `anthropic_*`.

Nothing is retried here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson

from models.errors import BadRequest, DeadlineExceeded, FarthingError, ProtocolViolation, StreamCut, Unsupported
from models.types import Call, Capabilities, Chunk, Completion, Json
from models.upstream.anthropic_request import to_messages
from models.upstream.anthropic_response import refined, to_completion, usage, with_status
from models.upstream.anthropic_stream import AnthropicReader
from models.upstream.errors import translate_event
from models.upstream.openai import IDLE_TIMEOUT_S, HttpBackend, Key

API_VERSION = "2023-06-01"
DEFAULT_MAX_TOKENS = 16_384  # thinking counts too, and newer models think unasked


class AnthropicBackend(HttpBackend):
    """Implements `models.backend.Backend`. `base_url` is `https://api.anthropic.com`, with or without `/v1`.

    `default_max_tokens` bounds an answer whose caller sets no bound: OpenAI's API wants none, Anthropic's does.
    `ignored_fields` are left out by the operator's choice instead of being refused: most models since Opus 4.7 take no
    `temperature` or `top_p` other than 1, which many callers send with every request.
    """

    def __init__(  # noqa: PLR0913 - declared facts of one backend, all by name in the one place that makes them
        self,
        name: str,
        base_url: str,
        model: str,
        session: aiohttp.ClientSession,
        key: Key | None,
        capabilities: Capabilities,
        *,
        extra_headers: Mapping[str, str] | None = None,
        ca_file: Path | None = None,
        health_path: str | None = None,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
        ignored_fields: Collection[str] = (),
    ) -> None:
        super().__init__(
            name,
            base_url.rstrip("/").removesuffix("/v1"),
            model,
            session,
            key,
            capabilities,
            extra_headers={"anthropic-version": API_VERSION, **(extra_headers or {})},
            ca_file=ca_file,
            health_path=health_path,
            idle_timeout_s=idle_timeout_s,
        )
        self._default_max_tokens = min(default_max_tokens, capabilities.context_tokens)
        self._ignored_fields = frozenset(ignored_fields)

    def _auth(self) -> dict[str, str]:
        return {} if self._key is None else {"x-api-key": self._key()}

    def _translated(self, call: Call, stream: bool) -> Json:
        if call.endpoint != "chat/completions":
            raise Unsupported("Anthropic's API has no text completions; use /v1/chat/completions", param="prompt")
        asked = {name: value for name, value in call.body.items() if name not in self._ignored_fields}
        return to_messages(asked, self.model, stream, self._default_max_tokens)

    @asynccontextmanager
    async def _ask(self, call: Call, stream: bool) -> AsyncIterator[aiohttp.ClientResponse]:
        body = self._translated(call, stream)
        try:
            async with self._post("v1/messages", body, call) as response:
                yield response
        except BadRequest as exc:
            raise refined(exc) from exc

    async def complete(self, call: Call) -> Completion:
        async with self._ask(call, stream=False) as response:
            raw = await self._whole(response)
        try:
            message = orjson.loads(raw)
            return Completion(to_completion(message, int(time.time())), usage(message.get("usage") or {}, message))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as exc:
            raise ProtocolViolation(f"{self.name}: the answer is none of Anthropic's") from exc

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Whole events as they come. Raises before the first content as `complete` does, `StreamCut` after it."""
        reader = AnthropicReader(int(time.time()))
        try:
            async with self._ask(call, stream=True) as response:
                async for block in response.content.iter_any():
                    chunk = reader.feed(block)
                    if chunk is not None:
                        yield chunk
                    if reader.fault is not None:
                        raise reader.fault
                    if reader.error is not None:
                        raise translate_event(with_status(reader.error), self.name)
                    if reader.done:
                        break
                if not reader.finished:
                    raise ProtocolViolation(f"{self.name}: the stream ended before the answer did")
        except FarthingError as exc:
            if reader.seen_content and not isinstance(exc, DeadlineExceeded | StreamCut):
                raise StreamCut(f"the answer broke off: {exc.message}") from exc
            raise
