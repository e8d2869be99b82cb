"""Models in shape only: the config of a profile's real checkpoint and a tokenizer of its size, for random weights.

What a GPU's speed depends on is here (layers, widths, vocabulary, quantization, so the same kernels run); what it says
is noise. So a machine that can fetch nothing still measures its throughput: `benchmarks.engine --dummy`. The figures of
the configs are those of the published `config.json` files (Qwen/Qwen3-8B-FP8, Qwen/Qwen3-8B-AWQ).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.load import VOCABULARY

TEXTS, WORDS = 200, 200  # that the tokenizer learns from: prompts of `benchmarks.load`
LEARNED_TOKENS = 1000
SPECIAL: Final = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>"),  # that the profiles' parsers look for
)
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
QWEN3_8B: Final[dict[str, Any]] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": False,
    "vocab_size": 151_936,
}
FP8: Final = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
AWQ: Final = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "qwen3-8b-fp8": {**QWEN3_8B, "torch_dtype": "bfloat16", "quantization_config": FP8},
    "qwen3-8b-awq": {**QWEN3_8B, "torch_dtype": "float16", "quantization_config": AWQ},
}


def make(folder: Path, config: dict[str, Any]) -> Path:
    """Write what vLLM needs beside weights: `--load-format dummy` brings those. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(int(config["vocab_size"]))
    ids = {name: tokenizer.token_to_id(name) for name in ("<|endoftext|>", "<|im_end|>")}
    whole = {**config, "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in (("config.json", whole), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder


def _tokenizer(size: int) -> Tokenizer:
    """Byte-level BPE that knows the load's words. The rest of the vocabulary has names that no text contains."""
    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((" ".join(rng.choices(VOCABULARY, k=WORDS)) for _ in range(TEXTS)), trainer)
    learned = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = learned["model"]["vocab"]
    merges = [tuple(pair) for pair in learned["model"]["merges"]]
    # every id that a random model can draw must be text: an answer without any is refused as wrong
    vocabulary |= {f"Ġ~{number}": number for number in range(len(vocabulary), size - len(SPECIAL))}
    whole = Tokenizer(models.BPE(vocabulary, merges))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    whole.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return whole
