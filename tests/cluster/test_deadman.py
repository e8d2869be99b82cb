"""The dead man's switch, as the script a box runs, against the provider's API with the key a container gets."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.box.door import uptime_s
from cluster.vastai import VastClient
from tests.cluster.fake_vast import KEY, FakeVast, Reply, offer

ROOT = Path(__file__).parents[2]
BODY: dict[str, Any] = {"image": "x", "label": "farthing:t:0:a", "disk": 20, "runtype": "args", "env": {}}


@pytest.fixture
def fake() -> Iterator[FakeVast]:
    with FakeVast() as server:
        server.add(offer(1), offer(2))
        yield server


def switch(fake: FakeVast, contract: int, data: Path, after_s: int) -> subprocess.Popen[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "FARTHING_DATA": str(data),
        "FARTHING_DEAD_MAN_S": str(after_s),
        "FARTHING_DEAD_MAN_LOOK_S": "0.2",
        "FARTHING_PROVIDER_URL": fake.url,
        "CONTAINER_ID": str(contract),
        "CONTAINER_API_KEY": fake.contracts[contract].key,
    }
    script = ["bash", str(ROOT / "cluster/box/deadman.sh")]
    return subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_box_without_a_controller_destroys_itself_and_no_other(fake: FakeVast, tmp_path: Path) -> None:
    client = VastClient(KEY, fake.url, spacing=0)
    mine, other = client.rent(1, BODY), client.rent(2, BODY)
    process = switch(fake, mine, tmp_path, after_s=1)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "destroys itself" in said
    assert [c.id for c in fake.standing()] == [other]


def test_it_tries_again_while_the_provider_does_not_answer(fake: FakeVast, tmp_path: Path) -> None:
    left = [1]

    def on_call(verb: str, path: str, at: str) -> None:
        if verb == "DELETE" and at == "before" and left:
            left.pop()
            raise Reply(404, "an edge that knows nothing yet")

    contract = VastClient(KEY, fake.url, spacing=0).rent(1, BODY)
    fake.on_call = on_call
    process = switch(fake, contract, tmp_path, after_s=1)
    process.communicate(timeout=60)
    assert fake.standing() == [] and not left


@pytest.mark.parametrize("beat", ["now", "from before the host restarted", "half a nu"])
def test_a_called_box_stays(fake: FakeVast, tmp_path: Path, beat: str) -> None:
    contract = VastClient(KEY, fake.url, spacing=0).rent(1, BODY)
    process = switch(fake, contract, tmp_path, after_s=2)
    try:
        for _ in range(8):  # twice as long as it would wait
            threading.Event().wait(0.5)
            written = {"now": str(uptime_s()), "from before the host restarted": str(uptime_s() + 10**6)}.get(
                beat, beat
            )
            (tmp_path / "heartbeat").write_text(written)
        assert process.poll() is None and len(fake.standing()) == 1
    finally:
        process.kill()
        process.wait()
