"""The load of engines on other machines: asked of each, summed, and counted on when one is started anew."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from models.local.vocabulary import EngineLoad
from serving.config import parse
from serving.elsewhere import Elsewhere, listing_files
from serving.runtime import Runtime
from serving.telemetry import EngineMetrics

ENGINE = "tiers: [{name: small, backends: [{kind: engine, profile: embedded, gpus: 0}]}]\n"
BOXES = "tiers: [{name: small, backends: [{kind: members, file: boxes.json, profile: embedded}]}]\n"


class Engines:
    """Two engines on one server; each tells its load to who has the key."""

    def __init__(self) -> None:
        self.loads = {"a": EngineLoad(running=2, kv_usage=0.2, generated_tokens=10), "b": EngineLoad(running=3)}

    async def load(self, request: web.Request) -> web.Response:
        if request.headers["authorization"] != "Bearer the-token":
            return web.Response(status=401)
        found = self.loads[request.match_info["name"]]
        return web.json_response(dataclasses.asdict(found) if found.running >= 0 else {"nonsense": 1})


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
async def listed(engines: Engines, tmp_path: Path) -> AsyncIterator[Path]:
    app = web.Application()
    app.router.add_get("/{name}/load", engines.load)
    key = tmp_path / "key"
    key.write_text("the-token")
    async with TestServer(app) as server:
        urls = [str(server.make_url(f"/{name}/v1")) for name in engines.loads]
        urls.append("http://127.0.0.1:9/gone/v1")
        found = [{"url": url, "model": "embedded", "key_file": str(key)} for url in urls]
        path = tmp_path / "engines.json"
        path.write_text(json.dumps({"version": 1, "members": found}))
        yield path


def figures(metrics: EngineMetrics) -> dict[str, Any]:
    gauges = {**metrics._now, **metrics._since_start}
    return {name: gauge.labels("embedded")._value.get() for name, gauge in gauges.items()}


async def test_loads_are_summed_and_a_restart_counts_from_the_beginning(engines: Engines, listed: Path) -> None:
    elsewhere = Elsewhere([listed])
    await elsewhere.look()
    assert elsewhere._metrics is not None
    shown = figures(elsewhere._metrics)
    assert (shown["running"], shown["kv_usage"], shown["generated_tokens"]) == (5, 0.2, 10)
    engines.loads["a"] = EngineLoad(running=0, kv_usage=0.1, generated_tokens=25)
    await elsewhere.look()
    assert figures(elsewhere._metrics)["generated_tokens"] == 25
    engines.loads["a"] = EngineLoad(running=0, generated_tokens=4)  # a new process
    await elsewhere.look()
    assert figures(elsewhere._metrics)["generated_tokens"] == 29


async def test_one_that_talks_nonsense_or_takes_another_key_is_left_out(engines: Engines, listed: Path) -> None:
    engines.loads["a"] = EngineLoad(running=-1)
    elsewhere = Elsewhere([listed])
    await elsewhere.look()
    assert elsewhere._metrics is not None and figures(elsewhere._metrics)["running"] == 3
    (listed.parent / "key").write_text("another")
    await elsewhere.look()
    assert figures(elsewhere._metrics)["running"] == 0


def test_which_files_list_engines_that_are_not_this_nodes_own(tmp_path: Path) -> None:
    own = Runtime(tmp_path, "http://127.0.0.1:1", metrics_in_service=True)
    clustered = dataclasses.replace(own, clustered=True)
    assert listing_files(parse(ENGINE), own) == []
    assert listing_files(parse(ENGINE), clustered) == [tmp_path / "run" / "engines.json"]
    assert listing_files(parse(BOXES), own) == [Path("boxes.json")]
