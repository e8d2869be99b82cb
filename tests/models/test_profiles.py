"""The catalogue is complete and its flags are ones vLLM's own parser takes; anything else resolves too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.errors import ConfigError
from models.local.gpus import KNOWN_GPUS
from models.local.profiles import EngineOptions, architecture_of, catalogue, flags, resolve

ROOT = Path(__file__).parents[2]
PARSE = """
import json, sys
from pathlib import Path
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
from models.local.profiles import catalogue, flags

parser, seen = make_arg_parser(FlexibleArgumentParser()), {}
for profile in catalogue().values():
    for device, kv in (("cpu", None), ("cuda", None), ("cuda", 10**10)):
        args = parser.parse_args(flags(profile, Path("/weights"), device=device, kv_cache_bytes=kv))
        validate_parsed_serve_args(args)
        seen[f"{profile.name} {device} {kv}"] = {k: v for k, v in vars(args).items() if k in sys.argv[1:]}
print(json.dumps(seen))
"""
LLAMA = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 131072,
}
HYBRID = {
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 16,
    "num_hidden_layers": 64,
    "num_attention_heads": 24,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_size": 5120,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 48,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 262144,
}


def test_vllm_parses_the_flags_of_every_profile() -> None:
    """In a process of its own: importing vLLM takes seconds and changes logging."""
    wanted = ["kv_cache_memory_bytes", "enable_prefix_caching", "max_num_queued_reqs", "max_num_queued_tokens"]
    wanted += ["enable_prompt_tokens_details", "enforce_eager", "dtype", "default_chat_template_kwargs"]
    command = [sys.executable, "-c", PARSE, *wanted]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    parsed = json.loads(run.stdout.splitlines()[-1])
    assert len(parsed) == 3 * len(catalogue())
    for args in parsed.values():
        assert args["enable_prefix_caching"] and args["enable_prompt_tokens_details"]
        assert args["max_num_queued_reqs"] and args["max_num_queued_tokens"]
    embedded = parsed["embedded cpu None"]
    assert (embedded["kv_cache_memory_bytes"], embedded["enforce_eager"], embedded["dtype"]) == (
        1 << 29,
        True,
        "float32",
    )
    assert parsed["qwen3-8b-fp8 cuda None"]["kv_cache_memory_bytes"] is None
    assert parsed["qwen3-8b-fp8 cuda 10000000000"]["kv_cache_memory_bytes"] == 10**10
    assert parsed["qwen3-8b-fp8 cuda None"]["default_chat_template_kwargs"] == {"enable_thinking": False}


def test_the_catalogue_has_what_a_24_gb_card_and_a_larger_one_need() -> None:
    profiles = catalogue()
    assert {"qwen3-8b-awq", "qwen3-8b-fp8", "qwen3-14b-awq", "qwen3-14b-fp8", "qwen3-32b-fp8"} <= set(profiles)
    for profile in profiles.values():
        assert profile.architecture is not None and profile.rate_card is not None
        assert profile.rate_card.gpu in KNOWN_GPUS or profile.name == "embedded"
        assert profile.engine.max_model_len <= profile.architecture.context_tokens
        assert profile.capabilities().context_tokens == profile.engine.max_model_len


@pytest.mark.parametrize(
    ("name", "linear_parameters", "vocabulary_bytes"),
    [
        ("qwen3-8b", 36 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 12288), 2 * 151936 * 4096 * 2),
        ("qwen3-14b", 40 * (2 * 5120 * 5120 + 2 * 5120 * 1024 + 3 * 5120 * 17408), 2 * 151936 * 5120 * 2),
        ("qwen3-32b", 64 * (2 * 5120 * 8192 + 2 * 5120 * 1024 + 3 * 5120 * 25600), 2 * 151936 * 5120 * 2),
    ],
)
def test_stated_weights_follow_from_the_architecture(name: str, linear_parameters: int, vocabulary_bytes: int) -> None:
    """FP8: a byte a parameter. AWQ: 4 bit, and a 16-bit scale and 4-bit zero per 128. The vocabulary is 16 bit."""
    for suffix, bytes_per_parameter in (("fp8", 1.0), ("awq", (4 + 20 / 128) / 8)):
        architecture = catalogue()[f"{name}-{suffix}"].architecture
        assert architecture is not None
        expected = linear_parameters * bytes_per_parameter + vocabulary_bytes
        assert architecture.weight_bytes == pytest.approx(expected, rel=0.01)


def test_the_hybrid_profile_follows_from_its_config() -> None:
    """Only every fourth layer keeps keys and values; the rest keep one state per request."""
    stated = catalogue()["qwen3.6-27b-fp8"].architecture
    assert stated is not None
    assert architecture_of({"text_config": HYBRID}, stated.weight_bytes) == stated


def test_sliding_windows_count_in_full() -> None:
    config = {**LLAMA, "layer_types": ["sliding_attention"] * 24 + ["full_attention"] * 8}
    assert architecture_of(config, 1).kv_bytes_per_token("auto") == 2 * 32 * 8 * 128 * 2


def folder(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"x" * 1000)
    return path


def test_a_folder_needs_no_profile(tmp_path: Path) -> None:
    path = folder(tmp_path / "mine", {**LLAMA, "quantization_config": {"quant_method": "gptq"}})
    profile = resolve(str(path))
    assert (profile.name, profile.quantization, profile.engine.max_model_len) == ("mine", "gptq", 8192)
    assert profile.architecture is not None and profile.architecture.weight_bytes == 1000
    assert flags(profile, path, device="cuda")[:2] == ["--model", str(path)]
    assert not profile.capabilities().tools


def test_a_short_context_bounds_the_generic_one_and_an_odd_config_is_left_to_vllm(tmp_path: Path) -> None:
    short = resolve(str(folder(tmp_path / "short", {**LLAMA, "max_position_embeddings": 2048})))
    assert short.engine.max_model_len == 2048
    odd = resolve(str(folder(tmp_path / "odd", {"model_type": "something else"})))
    assert odd.architecture is None


def test_a_hugging_face_id_needs_no_profile(tmp_path: Path) -> None:
    unseen = resolve("org/model-7B", tmp_path)
    assert (unseen.name, unseen.weights, unseen.architecture) == ("org--model-7B", "org/model-7B", None)
    folder(tmp_path / "org--model-7B", LLAMA)
    prepared = resolve("org/model-7B", tmp_path)
    assert (prepared.name, prepared.weights) == (unseen.name, unseen.weights)
    assert prepared.architecture is not None


@pytest.mark.parametrize("name", ["no-such-profile", "./nowhere/at/all", ""])
def test_a_name_nobody_knows_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ConfigError, match="embedded, qwen3-8b-awq"):
        resolve(name)


@pytest.mark.parametrize("limits", [{"max_num_queued_tokens": 100}, {"max_num_queued_reqs": 2}])
def test_limits_that_would_admit_nothing_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="max_num_queued"):
        EngineOptions(**limits)  # type: ignore[arg-type]
