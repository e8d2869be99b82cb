"""Any encoder of the Hub in torch: float16 on a GPU, float32 on a CPU for architectures that `bert_onnx.py` lacks.

The CUDA path is the CPU path with another device and precision; `tests/gpu` holds it against float32 where there is a
card.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from models.errors import ConfigError
from router.embedding.encoder import Pooling


class TorchNetwork:
    """`Network`. device: `cpu`, `cuda` or `cuda:N`. threads: for a CPU, set around each call and put back after it."""

    def __init__(self, folder: Path, pooling: Pooling, device: str, threads: int) -> None:
        self._device = torch.device(device)
        dtype = torch.float32 if self._device.type == "cpu" else torch.float16
        try:
            model = AutoModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{folder} holds no encoder that transformers can load: {error}") from error
        self._model: Any = model.to(self._device).eval()
        self._pooling = pooling
        self._threads = threads

    @property
    def dim(self) -> int:
        return int(self._model.config.hidden_size)

    def pooled(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode(), _threads(self._threads if self._device.type == "cpu" else None):
            on_device = torch.from_numpy(mask).to(self._device)
            inputs = torch.from_numpy(ids).to(self._device)
            hidden = self._model(input_ids=inputs, attention_mask=on_device).last_hidden_state
            # float32 from here on: a mean over hundreds of float16 values loses what the network kept
            vectors: NDArray[np.float32] = pool(hidden.float(), on_device, self._pooling).cpu().numpy()
        return vectors


def pool(hidden: Any, mask: Any, pooling: Pooling) -> Any:
    """(n, t, dim) to (n, dim) on the device; the same as `bert_onnx.pool`."""
    if pooling == "cls":
        return hidden[:, 0]
    lengths = mask.sum(dim=1).clamp(min=1)
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    return (hidden * mask.unsqueeze(-1)).sum(dim=1) / lengths.unsqueeze(-1)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """torch's count belongs to the process: an engine or another model beside us must find it as it was."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
