"""The artifact in use, swapped while running: a changed pointer is seen within a second, a bad artifact never."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from models.errors import ConfigError
from router.artifacts import current_version
from router.deployed import PRIOR, Deployed

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0


class HotArtifact:
    """root: where the user's artifacts live; without one, or an empty one, the shipped prior is used.

    Raises ConfigError when the first artifact cannot be loaded; a later one that cannot leaves the old in use, and
    `error` says why.
    """

    def __init__(self, root: Path | None, encoder_sha256: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._encoder_sha256 = encoder_sha256
        self._clock = clock
        self.error = ""
        self._pointed = self._pointer()
        self._looked_s = clock()
        self._deployed = self._load()

    def get(self) -> Deployed:
        """Looks at the pointer at most once a second; loading a new artifact takes tens of milliseconds, once."""
        now_s = self._clock()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            if (pointer := self._pointer()) != self._pointed:
                self._pointed = pointer
                self._swap()
        return self._deployed

    def _swap(self) -> None:
        try:
            self._deployed = self._load()
            self.error = ""
        except ConfigError as error:
            self.error = error.message
            log.error("the router keeps artifact %s: %s", self._deployed.manifest.version, error.message)

    def _pointer(self) -> str:
        return current_version(self._root) if self._root is not None else ""

    def _load(self) -> Deployed:
        path = self._root / self._pointed if self._root is not None and self._pointed else PRIOR
        return Deployed.load(path, self._encoder_sha256)
