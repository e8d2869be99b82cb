"""A stock image's start script, run for real: it fetches, checks the hash, and ends the box when it cannot go on."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.boot import CODE, script
from cluster.config import ClusterConfig
from cluster.vastai import VastClient
from tests.cluster.fake_vast import KEY, FakeVast, offer

BODY: dict[str, Any] = {"image": "x", "label": "farthing:t:0:a", "disk": 20, "runtype": "args", "env": {}}


def tarball(bootstrap: str) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        info = tarfile.TarInfo("farthing/cluster/bootstrap.sh")
        info.size = len(bootstrap.encode())
        tar.addfile(info, io.BytesIO(bootstrap.encode()))
    return held.getvalue()


@pytest.fixture
def fake() -> Iterator[FakeVast]:
    with FakeVast() as server:
        server.add(offer(1))
        yield server


@pytest.fixture
def host() -> Iterator[tuple[str, list[bytes]]]:
    """An address, and what it serves."""
    served: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(served[0])))
            self.end_headers()
            self.wfile.write(served[0])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/farthing.tar.gz", served
    server.shutdown()
    server.server_close()


def run(fake: FakeVast, source: tuple[str, str], folder: Path) -> str:
    """Until the box has destroyed itself; what it said. Paths of the box are put below `folder`."""
    contract = VastClient(KEY, fake.url, spacing=0).rent(1, BODY)
    image = {"source": {"url": source[0], "sha256": source[1]}}
    config = ClusterConfig.model_validate(
        {"profile": "embedded", "max_usd_per_hour": 1, "budget_usd_per_day": 2, "image": image}
    )
    text = script(config).replace(CODE, str(folder / "code")).replace("/tmp/farthing.tgz", str(folder / "source.tgz"))
    environment = {
        "PATH": os.environ["PATH"],
        "FARTHING_SOURCE_URL": source[0],
        "FARTHING_SOURCE_SHA256": source[1],
        "FARTHING_DEAD_MAN_S": "0",
        "FARTHING_PROVIDER_URL": fake.url,
        "CONTAINER_ID": str(contract),
        "CONTAINER_API_KEY": fake.contracts[contract].key,
    }
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-c", text], env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until_s = time.monotonic() + 60
        while fake.standing() and time.monotonic() < until_s:
            time.sleep(0.05)
        assert process.poll() is None  # it does not exit: the provider would start the container again
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return log.read_text()


def test_the_source_is_fetched_checked_and_run(fake: FakeVast, host: tuple[str, list[bytes]], tmp_path: Path) -> None:
    url, served = host
    served.append(tarball("echo this ran; exit 3\n"))
    said = run(fake, (url, hashlib.sha256(served[0]).hexdigest()), tmp_path)
    assert "this ran" in said and "FAILED: the bootstrap ended with status 3" in said
    assert fake.standing() == []


def test_another_source_than_the_file_says_is_not_run(
    fake: FakeVast, host: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    url, served = host
    served.append(tarball("echo this ran\n"))
    said = run(fake, (url, "0" * 64), tmp_path)
    assert "this ran" not in said and "FAILED: the source is not the one of image.source.sha256" in said
    assert fake.standing() == []
