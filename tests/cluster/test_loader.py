"""A stock image's start script, run for real: it fetches, checks the hash, and ends the box when it cannot go on."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
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


def run(fake: FakeVast, source: tuple[str, str], folder: Path, path: str = os.environ["PATH"]) -> str:
    """Until the box has destroyed itself; what it said. Paths of the box are put below `folder`."""
    contract = VastClient(KEY, fake.url, spacing=0).rent(1, BODY)
    image = {"source": {"url": source[0], "sha256": source[1]}}
    config = ClusterConfig.model_validate(
        {"profile": "embedded", "max_usd_per_hour": 1, "budget_usd_per_day": 2, "image": image}
    )
    text = script(config).replace(CODE, str(folder / "code")).replace("/tmp/farthing.tgz", str(folder / "source.tgz"))
    environment = {
        "PATH": path,
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
            [shutil.which("bash") or "bash", "-c", text],
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
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


def test_a_box_that_got_no_curl_gets_it_to_end_itself(
    fake: FakeVast, host: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    """The stock image has none. Where the package mirror was away, nothing else would ever end the box."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sleep", "mkdir", "cat", "ln", "rm"):
        (programs / name).symlink_to(shutil.which(name) or "")
    (tmp_path / "away").write_text("")
    mirror = f"#!/bin/bash\n[ -e {tmp_path}/away ] && {{ rm {tmp_path}/away; exit 100; }}\n"
    (programs / "apt-get").write_text(mirror + f"ln -sf {shutil.which('curl')} {programs}/curl\n")
    (programs / "apt-get").chmod(0o755)
    said = run(fake, (host[0], "0" * 64), tmp_path, str(programs))
    assert "FAILED: no curl" in said and fake.standing() == []
