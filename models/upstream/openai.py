"""Any server that speaks OpenAI's wire format: OpenAI itself, our own engine, Gemini, OpenRouter, another vLLM.

Bytes pass through. The body is the caller's, but for `model` and, on streams, a request for usage, without which no
stream could be billed. Nothing is retried here.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from models.backend import Health
from models.errors import DeadlineExceeded, FarthingError, ProtocolViolation, StreamCut, Unavailable, UpstreamTimeout
from models.types import Call, Capabilities, Chunk, Completion, Endpoint, Json, Usage
from models.upstream.errors import stated_error, translate, translate_event
from models.upstream.sockets import watched
from models.upstream.sse import STOPPED, ChunkReader

CONNECT_TIMEOUT_S = 5.0
IDLE_TIMEOUT_S = 120.0
HEALTH_TIMEOUT_S = 2.0
HEALTH_EVERY_S = 1.0
END_WAIT_S = 0.1
MAX_ANSWER_BYTES = 64 * 1024 * 1024
OBJECTS: dict[Endpoint, str] = {"chat/completions": "chat.completion", "completions": "text_completion"}

Key = Callable[[], str]


def make_session() -> aiohttp.ClientSession:
    """One per process. No cookies and no proxy from the environment: traffic goes where the configuration says."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0, socket_factory=watched)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
    )


class HttpBackend:
    """What every backend over HTTP shares: the post, its time limits, and the translation of what goes wrong."""

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
    ) -> None:
        self.name, self.model, self.capabilities = name, model, capabilities
        self._base_url = base_url.rstrip("/")
        self._session, self._key = session, key
        self._headers = {"content-type": "application/json", **(extra_headers or {})}
        self._ssl: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
        self._health_url = self._absolute(health_path) if health_path else None
        self._idle_timeout_s = idle_timeout_s
        self._health: asyncio.Task[Health] | None = None
        self._health_s = 0.0

    def _absolute(self, path: str) -> str:
        return path if path.startswith("http") else self._base_url + "/" + path.lstrip("/")

    def _auth(self) -> dict[str, str]:
        return {} if self._key is None else {"authorization": f"Bearer {self._key()}"}

    @asynccontextmanager
    async def _post(self, path: str, body: Json, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with status 200, or the error it stands for. Leaving the block early ends the upstream request."""
        left_s = call.deadline.remaining_s()
        call.deadline.check()
        # An answer in one piece is silent until it is whole, for minutes where a model thinks: it ends at the deadline
        # or with its machine (`sockets.py`). A stream that says nothing for so long is stuck.
        idle_s = self._idle_timeout_s if call.stream else None
        timeout = aiohttp.ClientTimeout(total=left_s, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_s)
        headers = {**self._headers, **call.headers, **self._auth()}
        try:
            async with self._session.post(
                f"{self._base_url}/{path}",
                data=orjson.dumps(body),
                headers=headers,
                timeout=timeout,
                ssl=self._ssl,
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise translate(response.status, response.headers, await self._whole(response), self.name)
                yield response
                await _read_out(response)
        except TimeoutError as exc:
            if call.deadline.remaining_s() <= 0.0:
                raise DeadlineExceeded(
                    "the deadline passed before the answer was whole; raise farthing.deadline_ms"
                ) from exc
            if isinstance(exc, aiohttp.ConnectionTimeoutError):  # nothing was sent: another may be asked
                raise Unavailable(f"{self.name}: no connection within {CONNECT_TIMEOUT_S:g} s") from exc
            raise UpstreamTimeout(f"{self.name}: no answer within its time limit") from exc
        except aiohttp.ClientError as exc:
            raise Unavailable(f"{self.name}: the connection failed ({type(exc).__name__})") from exc

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        """The answer's body, unless it has no end."""
        parts: list[bytes] = []
        size = 0
        async for block in response.content.iter_any():
            parts.append(block)
            size += len(block)
            if size > MAX_ANSWER_BYTES:
                raise ProtocolViolation(f"{self.name}: the answer exceeds {MAX_ANSWER_BYTES >> 20} MiB")
        return b"".join(parts)

    async def health(self) -> Health:
        """Asks `health_path`; without one the backend counts as ready and the breaker tells otherwise. Once a second at
        most: a load balancer may ask often."""
        if self._health_url is None:
            return Health(True)
        if self._health is None or time.monotonic() - self._health_s > HEALTH_EVERY_S:
            self._health, self._health_s = asyncio.create_task(self._looked_up(self._health_url)), time.monotonic()
        return await asyncio.shield(self._health)  # others may wait for it

    async def _looked_up(self, url: str) -> Health:
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
        try:
            async with self._session.get(url, headers=self._auth(), timeout=timeout, ssl=self._ssl) as response:
                return Health(response.status == 200, "" if response.status == 200 else f"status {response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError, FarthingError) as exc:
            return Health(False, type(exc).__name__)

    async def aclose(self) -> None:
        """The session is shared and closed by whoever made it."""


class OpenAIBackend(HttpBackend):
    """Implements `models.backend.Backend`."""

    async def complete(self, call: Call) -> Completion:
        async with self._post(call.endpoint, {**call.body, "model": self.model, "stream": False}, call) as response:
            raw = await self._whole(response)
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as exc:
            raise ProtocolViolation(f"{self.name}: the answer is not JSON") from exc
        if not isinstance(body, dict) or not _has_choices(body, call.endpoint):
            if stated_error(raw):  # some servers send errors with status 200
                raise translate_event(stated_error(raw), self.name)
            raise ProtocolViolation(f"{self.name}: the answer has no choices")
        if any(choice.get("finish_reason") == STOPPED for choice in body["choices"]):
            raise Unavailable(f"{self.name}: the engine was stopped before the answer ended")
        body["object"] = OBJECTS[call.endpoint]  # some leave it out; who replays an answer goes by it
        usage = Usage.from_openai(body.get("usage"))
        if usage is None:
            body.pop("usage", None)  # whoever counts instead says so in its place
        return Completion(body, usage)

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Whole events as they come. Raises before the first content as `complete` does, `StreamCut` after it."""
        reader = ChunkReader()
        try:
            async with self._post(call.endpoint, self._streamed(call.body), call) as response:
                async for block in response.content.iter_any():
                    chunk = reader.feed(block)
                    if chunk is not None:
                        yield chunk
                    if reader.fault is not None:
                        raise reader.fault
                    if reader.error is not None:
                        raise translate_event(reader.error, self.name)
                    if reader.done:
                        break
                # Some servers give no finish reason; one that says [DONE] without a word said nothing.
                if not reader.finished and not (reader.done and reader.seen_content):
                    raise ProtocolViolation(f"{self.name}: the stream ended before the answer did")
        except FarthingError as exc:
            if reader.seen_content and not isinstance(exc, DeadlineExceeded | StreamCut):
                raise StreamCut(f"the answer broke off: {exc.message}") from exc
            raise

    def _streamed(self, body: Json) -> dict[str, Any]:
        options = {**(body.get("stream_options") or {}), "include_usage": True}
        return {**body, "model": self.model, "stream": True, "stream_options": options}


async def _read_out(response: aiohttp.ClientResponse) -> None:
    """To the body's own end, where it is near: a stream says that it is done before HTTP does, and a connection left in
    between cannot be used again. With a hosted provider the next request would pay for another TLS handshake."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(END_WAIT_S):
            while not response.content.at_eof():
                await response.content.readany()


def _has_choices(body: Json, endpoint: Endpoint) -> bool:
    """Whether it is an answer of the kind asked for, as far as anything here reads it."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        return False
    if endpoint == "completions":
        return all(isinstance(choice.get("text"), str) for choice in choices)
    return all(isinstance(c.get("message"), dict) and _are_calls(c["message"].get("tool_calls")) for c in choices)


def _are_calls(calls: Any) -> bool:
    return calls is None or (isinstance(calls, list) and all(isinstance(call, dict) for call in calls))
