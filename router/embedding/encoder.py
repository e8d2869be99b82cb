"""One vector for each text: what an encoder is, and the one that tokenizes, batches by length and normalises.

The network behind it (`bert_onnx.py`, `torch_network.py`) is given padded token ids and returns pooled vectors. Knows
neither devices nor where a model comes from (`load.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Pooling = Literal["mean", "cls", "last"]

_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """Everything that decides which vector a text gets. Vectors of two identities are never compared.

    The precision it runs in (float32 on a CPU, float16 on a GPU) is not part of it: the difference is far below what
    any decision looks at, and a cache may move between the two.
    """

    weights_sha256: str  # of config.json and the safetensors files
    tokenizer_sha256: str  # of tokenizer.json
    pooling: Pooling
    prefix: str
    max_tokens: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class Encoder(Protocol):
    identity: EncoderIdentity
    dim: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dim), rows of length one. Blocks: give it a thread. A text beyond `max_tokens` is cut, not refused."""
        ...


class Network(Protocol):
    """Token ids and mask, both int64 (n, t), padded on the right, to pooled float32 vectors (n, dim)."""

    @property
    def dim(self) -> int: ...

    def pooled(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]: ...


class TextEncoder:
    """`Encoder` over a tokenizer and a network. May be called from several threads; each call runs in its own.

    max_batch_tokens: the size of one padded batch, which bounds the memory that a call takes.
    """

    def __init__(
        self, identity: EncoderIdentity, tokenizer: Tokenizer, network: Network, max_batch_tokens: int
    ) -> None:
        self.identity = identity
        self.dim = network.dim
        self._network = network
        self._max_batch_tokens = max_batch_tokens
        tokenizer.no_padding()  # files bring settings of their training
        tokenizer.no_truncation()
        self._whole = tokenizer
        self._cut = Tokenizer.from_str(tokenizer.to_str())
        self._cut.enable_truncation(identity.max_tokens)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        # one after the other: `encode_batch` starts a thread for each core, and the cores are not ours alone
        ids = [self._cut.encode(self._read(text)).ids for text in texts]
        vectors = np.empty((len(texts), self.dim), np.float32)
        for rows in batches([len(row) for row in ids], self._max_batch_tokens):
            vectors[rows] = self._network.pooled(*padded([ids[row] for row in rows]))
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        normal: NDArray[np.float32] = vectors / np.maximum(norms, _TINY)
        return normal

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text whole, prefix and special tokens included: over `identity.max_tokens`, its end is not seen."""
        return [len(self._whole.encode(self._read(text)).ids) for text in texts]

    def _read(self, text: str) -> str:
        """JSON may hold half a surrogate pair, which no tokenizer takes: it is read as a question mark."""
        return self.identity.prefix + text.encode("utf-8", "replace").decode()


def batches(lengths: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers by length, cut where the padded batch would pass the bound or padding would waste a third of it."""
    batch: list[int] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        longest = lengths[row]
        too_large = longest * (len(batch) + 1) > max_batch_tokens
        too_ragged = (tokens + longest) * 3 < longest * (len(batch) + 1) * 2
        if batch and (too_large or too_ragged):
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += longest
    if batch:
        yield batch


def padded(ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n, t) ids and mask; at least one column, for a text without any token."""
    width = max(1, *map(len, ids))
    table = np.zeros((len(ids), width), np.int64)
    mask = np.zeros((len(ids), width), np.int64)
    for row, tokens in enumerate(ids):
        table[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return table, mask
