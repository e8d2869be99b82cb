"""The artifact in use and how far it acts, swapped while running: a change is seen within a second, a bad one never."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from models.errors import ConfigError
from router.artifacts import current_version
from router.deployed import PRIOR, Deployed
from router.rollout import Rollout, read, stamp

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
T = TypeVar("T")


class Hot(Generic[T]):
    """root: where artifacts live. load: of one version's folder, None where nothing is pointed to.

    Raises ConfigError when the first artifact cannot be loaded; a later one that cannot leaves the old in use, and
    `error` says why. So does a root that is gone: what was in use was chosen, what there is without it was not.
    """

    def __init__(
        self, root: Path | None, load: Callable[[Path | None], T], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._load = load
        self._clock = clock
        self.error = ""
        self._pointed = self._pointer()
        self._looked_s = clock()
        self._held = load(self._folder())

    def get(self) -> T:
        """Looks at the pointer at most once a second; loading a new artifact takes tens of milliseconds, once."""
        now_s = self._clock()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            self._look()
        return self._held

    def _look(self) -> None:
        pointer = self._pointer()
        if pointer == self._pointed:
            return
        try:
            if self._root is not None and not pointer:
                self._root.stat()
            self._pointed = pointer
            self._held = self._load(self._folder())
            self.error = ""
        except OSError as error:
            self._failed(f"{self._root} cannot be read: {error}")
        except ConfigError as error:
            self._failed(error.message)

    def _failed(self, why: str) -> None:
        if why != self.error:
            log.error("what was in use stays: %s", why)
        self.error = why

    def _pointer(self) -> str:
        return current_version(self._root) if self._root is not None else ""

    def _folder(self) -> Path | None:
        return self._root / self._pointed if self._root is not None and self._pointed else None


class HotRollout(Hot[Rollout]):
    """What the file beside the artifacts says; without one, what is `stated`."""

    def __init__(self, root: Path | None, stated: Rollout, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(root, lambda folder: (read(folder) if folder is not None else None) or stated, clock)

    def _pointer(self) -> str:
        return stamp(self._root) if self._root is not None else ""

    def _folder(self) -> Path | None:
        return self._root

    def _failed(self, why: str) -> None:
        super()._failed(why)
        self._pointed = "unread"  # no stamp: it is read anew at every look, since a back-out must not hang on one try


class HotArtifact(Hot[Deployed]):
    """The router's; without artifacts of the user's own, the shipped prior."""

    def __init__(self, root: Path | None, encoder_sha256: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(root, lambda folder: Deployed.load(folder or PRIOR, encoder_sha256), clock)

    def rollout(self, stated: Rollout) -> HotRollout:
        """How far it acts: what the file beside the artifacts says, else what is `stated`. Raises ConfigError."""
        return HotRollout(self._root, stated, self._clock)
