"""The look from outside: quiet about a box as it should be, and a word for each thing a stranger should not find."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.__main__ import main
from cluster.box.identity import Identity
from cluster.box_client import Address
from cluster.outside import CLOSED, LISTED, door_faults, open_ports
from cluster.vault import Vault
from tests.cluster.conftest import written
from tests.cluster.fake_vast import FakeVast


def ports(file: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["ports", "--json", *more, str(file)])
    (box,) = json.loads(capsys.readouterr().out)["boxes"]
    return code, box


def test_a_box_shows_its_tls_port_and_no_more(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(document, tmp_path)
    assert main(["ports", str(file)]) == 2
    assert "no box" in capsys.readouterr().err
    assert main(["up", str(file)]) == 0
    port = fake.standing()[0].port
    code, box = ports(file, capsys, "--scan", str(port), str(port))
    assert (code, box["published"], box["open"], box["faults"]) == (0, ["8443/tcp"], [port], [])
    assert main(["ports", str(file)]) == 0
    assert "no plain HTTP" in capsys.readouterr().out
    assert main(["ports", "--scan", "9", "1", str(file)]) == 2


def test_what_else_is_published_or_open_is_a_fault(
    fake: FakeVast,
    document: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == 0
    shown = fake._shown
    more = {"8265/tcp": [{"HostIp": "0.0.0.0", "HostPort": "1"}]}
    monkeypatch.setattr(fake, "_shown", lambda c: (raw := shown(c)) | {"ports": raw["ports"] | more})
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        code, box = ports(file, capsys, "--scan", str(number), str(number))
    assert code == 1
    assert box["faults"] == ["the provider publishes 8265/tcp", f"port {number} is open"]


class Open(BaseHTTPRequestHandler):
    """vLLM's own server, say, on the public port: answers everybody everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def server(context: ssl.SSLContext | None) -> Iterator[Address]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Open) as running:
        if context is not None:
            running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield Address("127.0.0.1", running.server_address[1], "a-box.farthing.internal")
        running.shutdown()
        thread.join()


def test_a_door_that_lets_everybody_in_is_told_path_by_path(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    vault.prepare("test")
    with server(None) as address:
        faults = door_faults(address, vault.ca_file, "key")
    assert faults[0] == "answers plain HTTP" and len(faults) == 1 + len(LISTED) + len(CLOSED)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certified(vault, tmp_path))
    with server(context) as address:
        faults = door_faults(address, vault.ca_file, "key")
    assert faults[0] == "takes TLS 1.2" and "/v1/models without a key: 200" in faults and "/metrics: 200" in faults


def certified(vault: Vault, folder: Path) -> tuple[Path, Path]:
    identity = Identity(folder / "box", "a-box.farthing.internal", "token")
    pem = folder / "box.pem"
    pem.write_text(vault.certify(identity.csr(), "a-box.farthing.internal", "127.0.0.1", 1))
    return pem, identity.private_file


def test_open_ports_are_found_among_closed_ones() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        wanted = sorted([one.getsockname()[1], two.getsockname()[1]])
        closed = [1, 2, 3]
        assert open_ports("127.0.0.1", [*closed, *wanted]) == wanted
