"""Engines elsewhere as members of a tier's pool: a file lists those that serve now, and who keeps it replaces it.

It lists rented boxes (`cluster/members.py`), or the engines on the nodes of a Ray cluster (`serving/ray_nodes.py`):
`{"version": 1, "members": [{url, model, key_file, ca_file}]}`, `ca_file` for https only. A member that is new joins,
one that is gone gets no new request and finishes those it has. A file that is missing is an empty pool; one that cannot
be read, or is of another version, changes nothing and is logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError

from models.backend import Backend
from models.pool import Pool
from models.types import Capabilities
from models.upstream.openai import OpenAIBackend
from serving.runtime import KeyFile

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
HEALTH_PATH = "models"  # below the member's url; needs the key, so that it answers for the key as well


class Member(BaseModel):
    """One engine. Paths are absolute; the key is read again whenever its file changes."""

    model_config = ConfigDict(frozen=True)

    url: str
    model: str
    key_file: Path
    ca_file: Path | None = None


class _File(BaseModel):
    version: int
    members: list[Member]


def read(path: Path) -> list[Member]:
    """Raises ValueError for what is no list of members."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    try:
        found = _File.model_validate(json.loads(text))
    except ValidationError as exc:
        raise ValueError(f"{exc.errors()[0]['loc']}: {exc.errors()[0]['msg']}") from exc
    if found.version != 1:
        raise ValueError(f"version {found.version} is not 1")
    return found.members


class Members:
    """Keeps one pool like its file. Belongs to one event loop; `keep` is its task."""

    def __init__(self, pool: Pool, file: Path, capabilities: Capabilities, session: aiohttp.ClientSession) -> None:
        self._pool, self._file, self._capabilities, self._session = pool, file, capabilities, session
        self._known: dict[Member, Backend] = {}
        self._stamp: tuple[int, int] | None = None
        self._trouble = ""

    async def keep(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Take up the file if it is another one than last time: it is replaced, never written to."""
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        try:
            members = dict.fromkeys(read(self._file))
            made = {m: self._known[m] if m in self._known else self._backend(m) for m in members}
        except (OSError, ValueError, ssl.SSLError) as exc:
            if str(exc) != self._trouble:  # tried again at every look, told once: a certificate may come a moment later
                log.error("%s is not taken up, the pool stays as it was: %s", self._file, exc)
            self._trouble = str(exc)
            return
        self._stamp, self._trouble = stamp, ""
        log.warning("tier '%s' has %d members: %s", self._pool.name, len(made), ", ".join(m.url for m in made))
        self._known = made
        self._pool.replace(list(made.values()))

    def _stamped(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _backend(self, member: Member) -> Backend:
        return OpenAIBackend(
            f"{self._pool.name}/{urlsplit(member.url).netloc}",
            member.url,
            member.model,
            self._session,
            KeyFile(member.key_file),
            self._capabilities,
            ca_file=member.ca_file,
            health_path=HEALTH_PATH,
        )
