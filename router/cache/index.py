"""What a vector index is to the cache: exact ids and similarities inside one partition, and never outside it.

Owned by one thread (`shelf.py`). Backends: `faiss_index.py` on the CPU, `gpu_ring.py` on a device. An index holds
vectors of one encoder only. Knows neither entries nor why a partition is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError


class EncoderMismatch(ConfigError):
    """Vectors, thresholds or artifacts of another encoder: comparing them with ours would mean nothing."""


def require_same_encoder(what: str, has_sha256: str, wanted_sha256: str) -> None:
    if has_sha256 != wanted_sha256:
        raise EncoderMismatch(
            f"{what} belongs to the encoder {has_sha256[:12]}, the service runs {wanted_sha256[:12]}; "
            "configure that encoder again, or delete it"
        )


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Nearest first: row ids (m,) int64 and their inner products (m,) float32, m <= k."""

    ids: NDArray[np.int64]
    similarities: NDArray[np.float32]


class VectorIndex(Protocol):
    """Rows of length one, each in one partition. Adding, removing and searching take O(1) or one search."""

    encoder_sha256: str
    dim: int

    def add(self, row_id: int, vector: NDArray[np.float32], partition: bytes) -> int | None:
        """The id of the row that had to make room, if one had to: it is no longer found. Replaces a row of this id."""
        ...

    def remove(self, row_id: int) -> bool:
        """Not found from now on; False when it was not there."""
        ...

    def search(self, vector: NDArray[np.float32], partition: bytes, k: int) -> Neighbours: ...

    def ids(self) -> set[int]:
        """Every row that can be found. For checks: O(n)."""
        ...

    def __len__(self) -> int: ...

    def memory_bytes(self) -> int:
        """What the vectors take, on whichever device they are."""
        ...

    def close(self) -> None: ...
