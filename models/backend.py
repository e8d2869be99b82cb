"""The one seam behind which every model stands, local or remote."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from models.errors import FarthingError
from models.types import Call, Capabilities, Chunk, Completion


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a backend would take a call now; `detail` says why not."""

    ready: bool
    detail: str = ""


class Backend(Protocol):
    """An OpenAI-shaped model server. Implementations translate at their own edge and raise only `FarthingError`s.

    `stream` raises before its first chunk when the call failed, and `StreamCut` after it. Closing the generator (or
    cancelling the task inside `complete`) ends the upstream request. Nothing is retried here: `models.pool` does that.
    """

    @property
    def name(self) -> str:
        """Unique in the deployment, the label in metrics: `small/0`."""
        ...

    @property
    def model(self) -> str:
        """The model's name as the backend knows it."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def complete(self, call: Call) -> Completion: ...

    def stream(self, call: Call) -> AsyncGenerator[Chunk, None]: ...

    async def health(self) -> Health: ...

    async def aclose(self) -> None: ...


class UpstreamObserver(Protocol):
    """What the pool tells about its dealings; telemetry implements it. The pool knows no metrics library."""

    def upstream_error(self, backend: str, error: FarthingError) -> None: ...

    def retried(self, backend: str, attempt: int, wait_s: float) -> None: ...

    def breaker_changed(self, backend: str, state: str) -> None: ...


class SilentObserver:
    """Tells nobody."""

    def upstream_error(self, backend: str, error: FarthingError) -> None:
        pass

    def retried(self, backend: str, attempt: int, wait_s: float) -> None:
        pass

    def breaker_changed(self, backend: str, state: str) -> None:
        pass
