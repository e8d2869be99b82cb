"""One contract for every index: what numpy finds in the partition's live rows, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import ConfigError
from router.cache.faiss_index import FaissIndex
from router.cache.gpu_ring import GpuRing, row_bytes
from router.cache.index import EncoderMismatch, VectorIndex, require_same_encoder
from router.cache.rows import BLOCK_ROWS, Rows

DIM = 16
Make = Callable[[], VectorIndex]


def unit(rng: np.random.Generator, count: int, dim: int = DIM) -> NDArray[np.float32]:
    rows = rng.standard_normal((count, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ring(rows: int) -> GpuRing:
    return GpuRing("encoder", DIM, rows * row_bytes(DIM, 4), device="cpu")


MAKERS: dict[str, Make] = {
    "faiss": lambda: FaissIndex("encoder", DIM),
    "faiss, in cells": lambda: FaissIndex("encoder", DIM, cells_from_rows=40),
    "ring": lambda: ring(10_000),
}


@pytest.fixture(params=MAKERS, ids=str)
def index(request: pytest.FixtureRequest) -> Iterator[VectorIndex]:
    made = MAKERS[request.param]()
    yield made
    made.close()


def settle(index: VectorIndex) -> None:
    deadline_s = time.monotonic() + 60
    while isinstance(index, FaissIndex) and not index.is_settled():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_finds_what_numpy_finds(index: VectorIndex) -> None:
    rng = np.random.default_rng(1)
    vectors = unit(rng, 35)  # below the size from which cells are an approximation
    for row, vector in enumerate(vectors):
        assert index.add(row, vector, b"a") is None
    for query in unit(rng, 10):
        found = index.search(query, b"a", 8)
        scores = vectors @ query
        np.testing.assert_array_equal(found.ids, np.argsort(-scores)[:8])
        np.testing.assert_allclose(found.similarities, np.sort(scores)[::-1][:8], atol=1e-5)


def test_large_partition_finds_every_row_by_itself(index: VectorIndex) -> None:
    """Cells are approximate for a far neighbour, never for the near ones that a cache looks for."""
    rng = np.random.default_rng(2)
    vectors = unit(rng, 3000)
    for row, vector in enumerate(vectors):
        index.add(row, vector, b"a")
    settle(index)
    assert index.ids() == set(range(3000)) and len(index) == 3000
    near = vectors + 0.05 * unit(rng, 3000)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    assert [int(index.search(near[row], b"a", 1).ids[0]) for row in range(0, 3000, 60)] == list(range(0, 3000, 60))


def test_a_removed_row_is_not_found(index: VectorIndex) -> None:
    vectors = unit(np.random.default_rng(3), 100)
    for row, vector in enumerate(vectors):
        index.add(row, vector, b"a")
    assert all(index.remove(row) for row in range(0, 100, 2))
    assert not index.remove(0) and not index.remove(1000)
    settle(index)
    for vector in vectors:
        assert all(row % 2 for row in index.search(vector, b"a", 100).ids.tolist())
    assert len(index) == 50


def test_a_partition_sees_nothing_of_another(index: VectorIndex) -> None:
    """Not even when a foreign row is the very vector asked for, and fills every place among the nearest."""
    vector, other = unit(np.random.default_rng(4), 2)
    for row in range(50):
        index.add(row, vector, b"theirs")
    index.add(1000, other, b"ours")
    found = index.search(vector, b"ours", 8)
    assert found.ids.tolist() == [1000]
    assert index.search(vector, b"nobody's", 8).ids.tolist() == []


def test_a_row_added_again_is_replaced(index: VectorIndex) -> None:
    one, other = unit(np.random.default_rng(5), 2)
    index.add(1, one, b"a")
    index.add(1, other, b"b")
    assert index.search(one, b"a", 8).ids.tolist() == []
    found = index.search(other, b"b", 8)
    assert found.ids.tolist() == [1] and found.similarities[0] == pytest.approx(1, abs=1e-5)
    assert len(index) == 1


def test_memory_is_given_back_or_bounded(index: VectorIndex) -> None:
    before = index.memory_bytes()
    for row, vector in enumerate(unit(np.random.default_rng(6), 200)):
        index.add(row, vector, row.to_bytes(2))
    for row in range(200):
        index.remove(row)
    settle(index)
    assert index.memory_bytes() == before and index.ids() == set()


STEPS = st.lists(st.tuples(st.sampled_from("aaard"), st.integers(0, 60), st.integers(0, 2)), max_size=150)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_any_history_leaves_what_a_dict_would_hold(make: Make, steps: list[tuple[str, int, int]]) -> None:
    index, held = make(), dict[int, tuple[int, NDArray[np.float32]]]()
    vectors = unit(np.random.default_rng(7), 61)
    for action, row, partition in steps:
        if action == "a":
            index.add(row, vectors[row], bytes([partition]))
            held[row] = (partition, vectors[row])
        elif action == "r":
            assert index.remove(row) == (held.pop(row, None) is not None)
        else:
            wanted = {r for r, (p, _) in held.items() if p == partition}
            assert set(index.search(vectors[row], bytes([partition]), 1000).ids.tolist()) <= wanted
    settle(index)
    assert index.ids() == set(held) and len(index) == len(held)
    for partition in range(3):
        for row in [r for r, (p, _) in held.items() if p == partition]:
            assert int(index.search(vectors[row], bytes([partition]), 1).ids[0]) == row
    index.close()


def test_cells_take_over_while_rows_come_and_go() -> None:
    """Moving happens beside adding, removing and searching; no row is lost, doubled or brought back."""
    index = FaissIndex("encoder", DIM, cells_from_rows=500)
    rng = np.random.default_rng(8)
    vectors, live = unit(rng, 6000), set[int]()
    for row in range(6000):
        index.add(row, vectors[row], b"a")
        live.add(row)
        if row % 3 == 2:
            gone = int(rng.integers(row))
            assert index.remove(gone) == (gone in live)
            live.discard(gone)
            assert gone not in index.search(vectors[gone], b"a", 5).ids.tolist()
    settle(index)
    assert index.ids() == live
    index.close()


def test_the_index_can_be_closed_while_cells_are_made() -> None:
    index = FaissIndex("encoder", DIM, cells_from_rows=100)
    for row, vector in enumerate(unit(np.random.default_rng(9), 3000)):
        index.add(row, vector, b"a")
    index.close()
    assert index.ids() == set(range(3000))


def test_a_full_ring_overwrites_the_oldest_and_says_so() -> None:
    index = ring(4)
    vectors = unit(np.random.default_rng(10), 12)
    assert [index.add(row, vectors[row], b"a") for row in range(6)] == [None, None, None, None, 0, 1]
    index.remove(3)
    assert [index.add(row, vectors[row], b"b") for row in range(6, 12)] == [None, 2, 4, 5, 6, 7]
    assert index.ids() == {8, 9, 10, 11} and len(index) == 4
    assert index.search(vectors[5], b"a", 8).ids.tolist() == []
    assert set(index.search(vectors[8], b"b", 8).ids.tolist()) == {8, 9, 10, 11}


def test_a_ring_stays_within_its_bytes() -> None:
    assert ring(1000).memory_bytes() <= 1000 * row_bytes(DIM, 4)
    with pytest.raises(ConfigError, match="not one row"):
        GpuRing("encoder", DIM, 10, device="cpu")


def test_rows_keep_their_order_over_block_borders() -> None:
    rows = Rows(2)
    for row in range(BLOCK_ROWS + 3):
        rows.append(row, np.array([row, -row], np.float32))
    assert rows.remove(1) == BLOCK_ROWS + 2
    assert [rows.remove(len(rows) - 1) for _ in range(3)] == [None] * 3
    assert len(rows) == BLOCK_ROWS - 1
    ids, vectors = next(iter(rows.blocks()))
    assert ids[:3].tolist() == [0, BLOCK_ROWS + 2, 2]
    np.testing.assert_array_equal(vectors[1], [BLOCK_ROWS + 2, -BLOCK_ROWS - 2])
    assert rows.append(7, np.zeros(2, np.float32)) == BLOCK_ROWS - 1


def test_another_encoder_is_refused() -> None:
    require_same_encoder("the index", "a" * 64, "a" * 64)
    with pytest.raises(EncoderMismatch, match="configure that encoder again"):
        require_same_encoder("the index", "a" * 64, "b" * 64)
