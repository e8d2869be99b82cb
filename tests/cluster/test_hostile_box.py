"""A host may make its box answer anything. It must not hold up or end the process that holds the budget."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import box_client
from cluster.box.identity import Identity
from cluster.box_client import Address, BoxClient, NotReachable
from cluster.errors import BoxFailed
from cluster.vault import Vault

NAME, LABEL = "farthing-test-0-abc.farthing.internal", "farthing:test:0:abc"
Says = Callable[[socket.socket], None]
Start = Callable[[Says], BoxClient]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Start]:
    """A box that has joined, and then sends what the test says."""
    vault = Vault(tmp_path / "cluster")
    vault.prepare("test")
    identity = Identity(tmp_path / "box", NAME, "token")
    identity.certificate_file.write_text(vault.certify(identity.csr(), NAME, "127.0.0.1", 30))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load_into(tls)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(says: Says) -> None:
        while True:
            try:
                raw, _ = listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), tls.wrap_socket(raw, server_side=True) as peer:
                read_request(peer)
                says(peer)

    def start(says: Says) -> BoxClient:
        threading.Thread(target=serve, args=(says,), daemon=True).start()
        address = Address("127.0.0.1", listening.getsockname()[1], NAME)
        return BoxClient(address, vault.ca_file, "k" * 43)

    yield start
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def read_request(peer: socket.socket) -> None:
    """All of it: closing on what was not read would reset the connection."""
    head, _, body = peer.recv(1 << 16).partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += peer.recv(1 << 16)


def saying(body: bytes, status: int = 200) -> Says:
    head = f"HTTP/1.1 {status} x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return lambda peer: peer.sendall(head.encode() + body)


def test_a_byte_now_and_then_is_not_waited_for(box: Start) -> None:
    def drip(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 x\r\nx: ")
        while True:
            peer.sendall(b"y")
            time.sleep(0.1)

    with pytest.raises(NotReachable, match="Timeout"):
        box(drip)._call("GET", "/farthing/status", limit_s=1.0)


def test_an_answer_without_an_end_is_cut(box: Start) -> None:
    def pour(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 x\r\ncontent-encoding: gzip\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    with pytest.raises(NotReachable, match="bytes in answer"):
        box(pour).status()


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 200_000, b"null", b"\xff\xfe", b'{"up_s": 1e999}', b"1" * 9999])
def test_what_is_no_status_says_that_it_is_not_ready(box: Start, body: bytes) -> None:
    assert not box(saying(body)).status().ready


def test_a_status_of_odd_values_can_be_written_down(box: Start) -> None:
    said = rb'{"ready": "yes", "up_s": "x", "csr": 7, "progress": "\ud800\u001b[31m\n' + b"x" * 9999 + b'"}'
    status = box(saying(said)).status()
    assert (status.ready, status.up_s, status.csr) == (False, 0.0, "")
    assert len(status.progress) == 200 and status.progress.isprintable()
    json.dumps(status.progress, ensure_ascii=False).encode()


@pytest.mark.parametrize("usage", [None, [], "x", {"completion_tokens": "many"}, {"completion_tokens": -5}])
def test_a_measurement_without_a_count_fails_the_box(box: Start, usage: Any) -> None:
    with pytest.raises(BoxFailed, match="without text"):
        box(saying(json.dumps({"usage": usage}).encode())).measure("m", 2, 8)


def test_more_tokens_than_were_asked_for_are_not_counted(box: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 2.0])
    monkeypatch.setattr(box_client, "time", type("Clock", (), {"monotonic": lambda: next(seconds)}))
    usage = {"usage": {"completion_tokens": 10**11}}
    assert box(saying(json.dumps(usage).encode())).measure("m", 2, 8) == 2 * 8 / 2.0


@pytest.mark.parametrize(
    "csr", ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"]
)
def test_a_certificate_request_that_is_none_fails_the_box(tmp_path: Path, csr: str) -> None:
    vault = Vault(tmp_path)
    vault.prepare("test")
    with pytest.raises(BoxFailed):
        vault.certify(csr, NAME, "127.0.0.1", 30)
