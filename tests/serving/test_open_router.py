"""The router's process as it is opened: what its first question would have to wait for is there."""

from __future__ import annotations

from pathlib import Path

from router.cache.lexicon import english
from serving.app import build_decider
from serving.config import parse
from serving.routing import open_router
from serving.runtime import Runtime

SERVICE = "tiers: [{name: small, backends: [{kind: engine, profile: embedded}]}]\ncache: {semantic: {mode: serve}}\n"


async def test_words_are_read_before_the_first_question(tmp_path: Path) -> None:
    english.cache_clear()
    config = parse(SERVICE)
    runtime = Runtime(tmp_path, "http://127.0.0.1:1", metrics_in_service=False)
    process = await open_router(config, runtime, build_decider(config))
    try:
        assert process.recall is not None and english.cache_info().currsize == 1
    finally:
        await process.close()
