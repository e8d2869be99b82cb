"""From a model's name to an `Encoder`: a folder, a Hugging Face id, or the embedded default (`minilm.py`).

Chooses the network for the device. Knows nothing of caches and scores.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from models.errors import ConfigError
from models.local.profiles import HUGGING_FACE_ID, SEE_CARD, Profile
from models.local.weights import prepare
from router.embedding.bert_onnx import BertOnnx, is_bert
from router.embedding.encoder import EncoderIdentity, Network, TextEncoder
from router.embedding.recipe import Recipe, Stated, read_recipe

log = logging.getLogger(__name__)

# A CPU gains nothing from larger batches once a matrix product is long; on a GPU more rows hide the launches.
CPU_BATCH_TOKENS: Final = 2048
GPU_BATCH_TOKENS: Final = 16_384


def load(model: str, root: Path, stated: Stated | None = None, *, device: str = "cpu", threads: int = 1) -> TextEncoder:
    """model: a folder, or a Hugging Face id, downloaded into `root` once. Raises StartError saying what to do."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if not HUGGING_FACE_ID.fullmatch(model):
            raise ConfigError(f"no embedding model '{model}': give a folder or a Hugging Face id (org/model)")
        name = model.replace("/", "--")
        profile = Profile(name=name, weights=model, licence=SEE_CARD, quantization="unknown")
        folder = prepare(profile, root, log.info)
    return from_folder(folder, stated or Stated(), device=device, threads=threads)


def from_folder(folder: Path, stated: Stated, *, device: str = "cpu", threads: int = 1) -> TextEncoder:
    """A folder with config.json, tokenizer.json and safetensors. Reads every byte, for the identity."""
    recipe = read_recipe(folder, stated)
    identity = identify(folder, recipe)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    on_cpu = device == "cpu"
    network = _network(folder, recipe, device, threads)
    return TextEncoder(identity, tokenizer, network, CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS)


def identify(folder: Path, recipe: Recipe) -> EncoderIdentity:
    weights = sorted(folder.glob("*.safetensors"))
    needed = [folder / "config.json", folder / "tokenizer.json"]
    if missing := [path.name for path in needed if not path.is_file()] + ([] if weights else ["*.safetensors"]):
        raise ConfigError(f"{folder} is no embedding model: it lacks {', '.join(missing)}")
    digests = [_sha256(path) for path in (folder / "config.json", *weights)]
    return EncoderIdentity(
        weights_sha256=hashlib.sha256("".join(digests).encode()).hexdigest(),
        tokenizer_sha256=_sha256(folder / "tokenizer.json"),
        pooling=recipe.pooling,
        prefix=recipe.prefix,
        max_tokens=recipe.max_tokens,
    )


def _network(folder: Path, recipe: Recipe, device: str, threads: int) -> Network:
    if device == "cpu" and is_bert(json.loads((folder / "config.json").read_text(encoding="utf-8"))):
        return BertOnnx.from_folder(folder, recipe.pooling, threads)
    from router.embedding.torch_network import TorchNetwork  # torch and transformers: seconds to import

    return TorchNetwork(folder, recipe.pooling, device, threads)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
