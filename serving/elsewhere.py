"""How busy engines on other machines are: asked of each over HTTP, for their own metrics lie where nobody scrapes.

Belongs to the node's bookkeeper. Knows the files that list them (`serving/members.py`), and no pool.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from models.local.vocabulary import EngineLoad
from serving import members
from serving.config import Config, EngineBackend, MembersBackend
from serving.members import Member
from serving.runtime import Runtime, read_secret
from serving.telemetry import EngineMetrics

LIMIT_S = 3.0


def listing_files(config: Config, runtime: Runtime) -> list[Path]:
    """Of all engines that are not this node's own."""
    backends = [backend for tier in config.tiers for backend in tier.backends]
    files = [backend.file for backend in backends if isinstance(backend, MembersBackend)]
    clustered = runtime.clustered and any(isinstance(backend, EngineBackend) for backend in backends)
    return [*files, runtime.engines_file] if clustered else files


class Elsewhere:
    """`look` now and then; one that does not answer is left out until it does."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._metrics = EngineMetrics() if files else None
        self._models: set[str] = set()

    async def look(self) -> None:
        """Raises ValueError for a file that lists no members."""
        if self._metrics is None:
            return
        listed = [member for file in self._files for member in members.read(file)]
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            answers = await asyncio.gather(*(_load(session, member) for member in listed))
        by_model: dict[str, dict[str, EngineLoad]] = {model: {} for model in self._models}
        for member, load in zip(listed, answers, strict=True):
            if load is not None:
                by_model.setdefault(member.model, {})[member.url] = load
        self._models = set(by_model)  # one that has no engine left must not go on looking busy
        for model, loads in by_model.items():
            self._metrics.observe_all(model, loads)


async def _load(session: aiohttp.ClientSession, member: Member) -> EngineLoad | None:
    url = member.url.removesuffix("/v1") + "/load"
    try:
        trusted = ssl.create_default_context(cafile=str(member.ca_file)) if member.ca_file else True
        headers = {"authorization": f"Bearer {read_secret(member.key_file)}"}
        async with session.get(url, headers=headers, ssl=trusted) as answer:
            if answer.status != 200:
                return None
            return EngineLoad(**await answer.json())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError):
        return None
