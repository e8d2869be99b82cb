"""A peer whose machine is gone is noticed by the kernel; one that only thinks is left alone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from models.errors import Unavailable
from models.types import Call, Capabilities, Deadline
from models.upstream import openai
from models.upstream.openai import OpenAIBackend, make_session
from models.upstream.sockets import watched


async def test_every_connection_to_an_upstream_is_watched() -> None:
    async with make_session() as session:
        factory = session.connector._socket_factory  # type: ignore[union-attr]
    assert factory is watched
    with watched((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 1))) as made:
        option = lambda name: made.getsockopt(socket.IPPROTO_TCP, name)  # noqa: E731
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        silence_s = option(socket.TCP_KEEPIDLE) + option(socket.TCP_KEEPINTVL) * option(socket.TCP_KEEPCNT)
        assert silence_s * 1000 == option(socket.TCP_USER_TIMEOUT) == 11_000


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that neither takes nor refuses connections, as one of a machine that is gone: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_that_does_not_come_about_may_be_tried_elsewhere(
    black_hole: int, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "CONNECT_TIMEOUT_S", 0.2)
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    call = Call("chat/completions", body, "req_1", Deadline.after(20), stream=stream)
    async with make_session() as session:
        backend = OpenAIBackend("small/0", f"http://127.0.0.1:{black_hole}/v1", "m", session, None, Capabilities())
        with pytest.raises(Unavailable, match="no connection within") as raised:
            if stream:
                await anext(backend.stream(call))
            else:
                await backend.complete(call)
    assert raised.value.retryable
