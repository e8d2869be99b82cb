"""A box as it is: bootstrap.sh, the supervisor, vLLM on the CPU with the embedded model, behind the real door.

Only the provider is played, and packages are there already. Minutes; marked `stack`.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from cluster.__main__ import main
from tests.cluster.conftest import written
from tests.cluster.fake_vast import FakeVast, offer
from tests.cluster.real_boxes import RealBoxes

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


@pytest.fixture
def real(tmp_path: Path) -> Iterator[FakeVast]:
    boxes = RealBoxes(tmp_path)
    with FakeVast(boxes=boxes) as fake:
        fake.add(offer(1, usd=0.30))
        try:
            yield fake
        finally:
            boxes.close()
            for log in tmp_path.glob("*.log"):
                print(log.read_text(errors="replace")[-4000:])


def test_a_real_box_boots_answers_streams_and_ends(
    real: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document["profile"] = "embedded"
    document["provider"]["url"] = real.url
    document["timing"] |= {"poll_s": 1.0, "boot_s": 120, "model_s": 400, "unhealthy_s": 30}
    document["speed"] = {"requests": 4, "output_tokens": 16, "min_share": 0.01}
    file = written(document, tmp_path)
    assert main(["up", "--json", str(file)]) == 0
    shown = capsys.readouterr()
    print(shown.err)
    assert "serving" in shown.err or "loading" in shown.err
    state = tmp_path / "state" / "test"
    (member,) = json.loads((state / "members.json").read_text())["members"]
    context = ssl.create_default_context(cafile=member["ca_file"])
    headers = {"authorization": f"Bearer {Path(member['key_file']).read_text()}"}
    body = {"model": member["model"], "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    with httpx2.Client(verify=context, headers=headers, timeout=60, trust_env=False) as http:
        whole = http.post(f"{member['url']}/chat/completions", json=body)
        assert whole.json()["choices"][0]["message"]["content"]
        with http.stream("POST", f"{member['url']}/chat/completions", json={**body, "stream": True}) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert lines[-1] == "data: [DONE]" and len(lines) > 3
        assert http.get(member["url"].removesuffix("/v1") + "/metrics").status_code == 404
    assert listening_beyond_loopback(real) == {int(member["url"].split(":")[2].split("/")[0])}
    assert main(["down", str(file)]) == 0
    assert real.standing() == []


def listening_beyond_loopback(fake: FakeVast) -> set[int]:
    """Ports that the box's processes offer to others: the check that a scan from outside would make."""
    boxes = fake.boxes
    assert isinstance(boxes, RealBoxes)
    found = set()
    for process in boxes.running.values():
        for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            for held in member.net_connections("tcp"):
                if held.status == psutil.CONN_LISTEN and not held.laddr.ip.startswith(("127.", "::1")):
                    found.add(held.laddr.port)
    return found
