"""The packed candidate is the served network: equal in float32, near in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks.packed_bert import PRODUCTS, PackedBert
from router.embedding.bert_onnx import BertOnnx
from router.embedding.encoder import padded
from router.embedding.minilm import folder

IDS = [[101, 2054, 2003, 1037, 2521, 15222, 1029, 102], [101, 7592, 102]]


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("low", "off"), [((), 1e-4), (PRODUCTS, 0.05)])
def test_it_computes_what_is_served(low: tuple[str, ...], off: float) -> None:
    served = BertOnnx.from_folder(folder(), "mean", 1).pooled(*padded(IDS))
    found = PackedBert(folder(), low).pooled(*padded(IDS))
    assert found.shape == served.shape
    assert np.abs(found - served).max() < off
    cosines = (found * served).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(served, axis=1)
    assert cosines.min() > 0.9999


def test_bfloat16_is_used_where_it_is_asked_for() -> None:
    exact, low = (PackedBert(folder(), products).pooled(*padded(IDS[:1])) for products in ((), PRODUCTS))
    assert not np.array_equal(exact, low)
