"""What only a card can show. Skipped where there is none: `make test ARGS='tests/gpu'` on a machine that has one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertModel

from router.cache.gpu_ring import GpuRing, row_bytes
from router.embedding.bert_onnx import BertOnnx
from router.embedding.torch_network import TorchNetwork

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

DIM = 384
HALF = 2e-3  # what float16 rows and products may be off at this length


def unit(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    rows = rng.standard_normal((count, DIM), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ring(rows: int) -> GpuRing:
    return GpuRing("encoder", DIM, rows * row_bytes(DIM, 2))


def test_the_ring_finds_what_numpy_finds_while_rows_come_and_go() -> None:
    rng = np.random.default_rng(1)
    index, vectors, live = ring(3000), unit(rng, 6000), dict[int, bytes]()
    for row, vector in enumerate(vectors):
        displaced = index.add(row, vector, bytes([row % 3]))
        live[row] = bytes([row % 3])
        live.pop(displaced if displaced is not None else -1, None)
        if row % 5 == 4:
            gone = int(rng.choice(list(live)[:50]))
            assert index.remove(gone)
            live.pop(gone)
    assert index.ids() == set(live)
    for query in unit(rng, 50):
        for partition in (b"\0", b"\1", b"\2"):
            ours = np.array([row for row, owner in live.items() if owner == partition])
            scores = vectors[ours] @ query
            found = index.search(query, partition, 8)
            assert set(found.ids.tolist()) <= set(ours.tolist()) and len(found.ids) == 8
            np.testing.assert_allclose(found.similarities, np.sort(scores)[::-1][:8], atol=HALF)
            assert set(ours[scores > found.similarities[-1] + HALF].tolist()) <= set(found.ids.tolist())
    index.close()


def test_the_ring_keeps_to_its_bytes_and_gives_them_back() -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    index = ring(50_000)
    limit = 50_000 * row_bytes(DIM, 2)
    torch.cuda.reset_peak_memory_stats()
    for row, vector in enumerate(unit(np.random.default_rng(2), 2000)):
        index.add(row, vector, b"a")
    index._high = index.capacity  # a search over all of it
    index.search(unit(np.random.default_rng(3), 1)[0], b"a", 8)
    assert torch.cuda.max_memory_allocated() - before <= limit
    index.close()
    assert torch.cuda.memory_allocated() - before < limit / 100


def test_half_precision_moves_no_vector_to_speak_of(tmp_path: Path) -> None:
    """A network of the embedded encoder's depth and width with random weights: float16 on the card, float32 here."""
    config = BertConfig(
        hidden_size=DIM, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "bert")
    rng = np.random.default_rng(4)
    lengths = rng.integers(2, 128, 32)
    ids = rng.integers(1000, 20_000, (32, 128))
    mask = (np.arange(128) < lengths[:, None]).astype(np.int64)
    here = BertOnnx.from_folder(tmp_path / "bert", "mean", 1).pooled(ids, mask)
    card = TorchNetwork(tmp_path / "bert", "mean", "cuda", 1).pooled(ids, mask)
    cosines = (here * card).sum(axis=1) / np.linalg.norm(here, axis=1) / np.linalg.norm(card, axis=1)
    assert cosines.min() > 0.999
    shutil.rmtree(tmp_path / "bert")
