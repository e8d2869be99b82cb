"""The embedded encoder gives the vectors its authors' stack gives, alone or in a batch, short or cut."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from router.embedding.encoder import TextEncoder, batches
from router.embedding.minilm import folder, load_default
from router.embedding.torch_network import TorchNetwork

RESET = "How do I reset my password?"
FORGOT = "I forgot my password, how can I get a new one?"
PARIS = "What is the capital of France?"
# the file of sentence-transformers/all-MiniLM-L6-v2 on the Hub
PUBLISHED_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_default()


def test_the_package_carries_the_published_weights() -> None:
    assert hashlib.sha256((folder() / "model.safetensors").read_bytes()).hexdigest() == PUBLISHED_WEIGHTS


def test_a_paraphrase_is_nearer_than_another_question(encoder: TextEncoder) -> None:
    reset, forgot, paris = encoder.encode([RESET, FORGOT, PARIS])
    assert reset @ forgot > 0.7 > 0.2 > reset @ paris


def test_rows_have_length_one(encoder: TextEncoder) -> None:
    vectors = encoder.encode([RESET, "", " ", "\x00", "x" * 5000])
    assert vectors.shape == (5, encoder.dim) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_text_no_row(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_half_a_surrogate_pair_is_read_as_a_question_mark(encoder: TextEncoder) -> None:
    broken, plain = encoder.encode(["well \ud800 then", "well ? then"])
    assert np.array_equal(broken, plain)
    assert encoder.count_tokens(["\ud800"]) == encoder.count_tokens(["?"])


def test_a_batch_gives_what_each_text_gives_alone(encoder: TextEncoder) -> None:
    texts = [PARIS, RESET * 9, "hi", FORGOT, "word " * 300, RESET]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), alone, atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_both_networks_agree(encoder: TextEncoder, pooling: str) -> None:
    """The ONNX graph is written by hand: transformers' own model is what it must equal."""
    from router.embedding.bert_onnx import BertOnnx

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    texts = [RESET, FORGOT * 4, PARIS, "a"]
    networks = [BertOnnx.from_folder(folder(), pooling, 1), TorchNetwork(folder(), pooling, "cpu", 1)]
    onnx, torch_ = (TextEncoder(encoder.identity, tokenizer, network, 2048).encode(texts) for network in networks)
    np.testing.assert_allclose(onnx, torch_, atol=1e-5)


def test_torch_threads_are_put_back(encoder: TextEncoder) -> None:
    before = torch.get_num_threads()
    network = TorchNetwork(folder(), "mean", "cpu", before + 1)
    network.pooled(np.array([[101, 2023, 102]]), np.ones((1, 3), np.int64))
    assert torch.get_num_threads() == before


def test_what_lies_beyond_the_cut_is_not_seen_and_can_be_known(encoder: TextEncoder) -> None:
    long = "word " * 300
    one, other = encoder.encode([long + "yes", long + "no"])
    np.testing.assert_array_equal(one, other)
    assert encoder.count_tokens([long, RESET]) == [302, 9]
    assert encoder.identity.max_tokens == 256


def test_a_prefix_changes_the_vector(encoder: TextEncoder) -> None:
    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    identity = replace(encoder.identity, prefix="query: ")
    prefixed = TextEncoder(identity, tokenizer, encoder._network, 2048)
    np.testing.assert_allclose(prefixed.encode([RESET]), encoder.encode(["query: " + RESET]), atol=1e-6)


@given(st.lists(st.integers(0, 300)), st.integers(300, 1000))
def test_every_text_is_in_one_batch_and_no_batch_is_too_large(lengths: list[int], bound: int) -> None:
    cut = list(batches(lengths, bound))
    assert sorted(row for batch in cut for row in batch) == list(range(len(lengths)))
    assert all(max(lengths[row] for row in batch) * len(batch) <= bound for batch in cut)


def test_a_long_text_does_not_pad_short_ones() -> None:
    assert list(batches([8, 200, 8, 210, 7], 2048)) == [[4, 0, 2], [1, 3]]
