"""Embeddings of many texts, with progress, kept between runs in a folder of the caller's choice.

One file for each encoder identity, so that vectors of two encoders cannot meet. Keeps hashes of texts, never texts.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from router.embedding.encoder import Encoder

Say = Callable[[str], None]

_AT_ONCE: Final = 256
_SAY_EVERY_S: Final = 10.0


def embed(texts: Sequence[str], encoder: Encoder, cache: Path | None, say: Say) -> NDArray[np.float32]:
    """(n, dim), rows of length one; equal texts are encoded once."""
    known = _read(cache, encoder) if cache is not None else {}
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if new:
        known |= _encode(new, encoder, say)
        if cache is not None:
            _write(cache, encoder, known)
    return np.stack([known[key] for key in keys]) if keys else np.empty((0, encoder.dim), np.float32)


def _encode(new: dict[bytes, str], encoder: Encoder, say: Say) -> dict[bytes, NDArray[np.float32]]:
    found: dict[bytes, NDArray[np.float32]] = {}
    items = list(new.items())
    said_s = began_s = time.monotonic()
    for start in range(0, len(items), _AT_ONCE):
        block = items[start : start + _AT_ONCE]
        found |= zip([key for key, _ in block], encoder.encode([text for _, text in block]), strict=True)
        if (now_s := time.monotonic()) - said_s > _SAY_EVERY_S:
            said_s = now_s
            left_s = (now_s - began_s) / len(found) * (len(items) - len(found))
            say(f"embedding: {len(found):,} of {len(items):,} texts, about {left_s:.0f} s left")
    say(f"embedding: {len(items):,} texts in {time.monotonic() - began_s:.1f} s")
    return found


def _path(cache: Path, encoder: Encoder) -> Path:
    return cache / f"vectors-{encoder.identity.sha256[:16]}.npz"


def _read(cache: Path, encoder: Encoder) -> dict[bytes, NDArray[np.float32]]:
    path = _path(cache, encoder)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(zip([row.tobytes() for row in stored["keys"]], stored["vectors"], strict=True))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise ConfigError(f"{path} is not a cache of vectors ({error}): delete it") from error


def _write(cache: Path, encoder: Encoder, known: dict[bytes, NDArray[np.float32]]) -> None:
    """Whole or not at all: a run that is killed leaves what was there."""
    cache.mkdir(parents=True, exist_ok=True)
    draft = cache / f".draft-{uuid.uuid4().hex}.npz"
    keys = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), 32)
    np.savez(draft, keys=keys, vectors=np.stack(list(known.values())))
    draft.replace(_path(cache, encoder))
