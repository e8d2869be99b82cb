"""A peer whose machine is gone is noticed by the kernel; one that only thinks is left alone."""

from __future__ import annotations

import socket

from models.upstream.openai import make_session
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
