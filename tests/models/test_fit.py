"""What fits which GPU, held against figures published or measured elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.__main__ import main
from models.errors import ConfigError, DoesNotFit
from models.local.fit import Budget, check_fits, fit, pick_profile
from models.local.gpus import GIB, KNOWN_GPUS, Gpu, detect_gpu, gpu_named
from models.local.profiles import Architecture, Profile, catalogue, resolve

GB = 10**9
ROOT = Path(__file__).parents[2]
WHOLE_CARD = Budget(shared_bytes=0)
CARD_24_GB = Gpu("24 GB", 24 * GB)


def model(weight_gb: float, layers: int, kv_heads: int, *, kv: str = "auto") -> Profile:
    architecture = Architecture(
        weight_bytes=int(weight_gb * GB), kv_layers=layers, kv_heads=kv_heads, head_dim=128, context_tokens=131072
    )
    engine = {"kv_cache_dtype": kv}
    return Profile.model_validate(
        {"name": "m", "weights": "a/b", "licence": "-", "quantization": "awq", "engine": engine}
        | {"architecture": architecture}
    )


@pytest.mark.parametrize(
    ("profile", "kv_tokens"),
    [
        (model(5.57, 28, 4), 253_000),  # Qwen2.5-7B AWQ
        (model(9.1, 32, 8), 84_000),  # Llama-3.1-8B FP8
        (model(5.73, 32, 8), 110_000),  # Llama-3.1-8B AWQ
        (model(9.98, 48, 8), 51_000),  # Qwen2.5-14B AWQ
        (model(7.25, 40, 40), 16_000),  # Llama-2-13B AWQ: no grouped-query attention
    ],
)
def test_24_gb_at_090_with_15_gb_aside_leaves_the_known_number_of_tokens(profile: Profile, kv_tokens: int) -> None:
    assert fit(profile, CARD_24_GB, budget=WHOLE_CARD).kv_tokens == pytest.approx(kv_tokens, rel=0.02)


def test_an_h100_has_the_room_that_vllm_found_there() -> None:
    """vLLM 0.32.0, Qwen3-8B in FP8: 438,336 tokens, beside 2.54 GiB for 256 requests in a batch."""
    there = Budget(overhead_bytes=2_730_000_000, shared_bytes=0)
    found = fit(catalogue()["qwen3-8b-fp8"], gpu_named("h100"), budget=there).kv_tokens
    assert found == pytest.approx(438_336, rel=0.01)


def test_fp8_kv_cache_doubles_the_tokens() -> None:
    half = fit(model(5.57, 28, 4), CARD_24_GB).kv_tokens
    assert fit(model(5.57, 28, 4, kv="fp8"), CARD_24_GB).kv_tokens == pytest.approx(2 * half, abs=1)


def test_a_hybrid_request_takes_what_vllm_said_it_needs() -> None:
    """vLLM 0.21 wanted 8.33 GiB of FP8 cache for one request of 262,144 tokens of Qwen3.6-27B."""
    architecture = catalogue()["qwen3.6-27b-fp8"].architecture
    assert architecture is not None
    needed = 262_144 * architecture.kv_bytes_per_token("fp8") + architecture.state_bytes
    assert needed / GIB == pytest.approx(8.33, rel=0.03)


def test_what_fits_a_4090() -> None:
    gpu = gpu_named("rtx4090")
    fitting = {name for name, profile in catalogue().items() if fit(profile, gpu).fits}
    assert fitting == {"embedded", "qwen3-8b-awq", "qwen3-8b-fp8", "qwen3-14b-awq", "qwen3-14b-fp8"}


@given(st.sampled_from(list(catalogue().values())), st.integers(8, 200), st.integers(1, 131072))
def test_the_requests_said_to_fit_do_fit_and_one_more_does_not(profile: Profile, gib: int, context: int) -> None:
    report = fit(profile, Gpu("g", gib * GIB), context_tokens=context)
    assert profile.architecture is not None
    each = context * report.kv_bytes_per_token + profile.architecture.state_bytes
    room = max(0, report.kv_cache_bytes)
    assert report.concurrent * each <= room < (report.concurrent + 1) * each
    assert report.fits == (report.concurrent >= 1)
    spent = report.weight_bytes + report.kv_cache_bytes + Budget().overhead_bytes + Budget().shared_bytes
    assert spent == pytest.approx(0.9 * gib * GIB, abs=1)


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    gpu = gpu_named("rtx4090")
    with pytest.raises(DoesNotFit, match=r"23\.5 GiB; weights take 34\.3 GB, 14\.1 GB more than is left"):
        check_fits(catalogue()["qwen3-32b-fp8"], gpu)
    with pytest.raises(
        DoesNotFit, match=r"KV cache for 3,355 tokens at 262,144 bytes each, below one request of 16,384"
    ):
        check_fits(catalogue()["qwen3-32b-awq"], gpu)
    assert check_fits(catalogue()["qwen3-32b-awq"], gpu, context_tokens=2048).concurrent == 1
    assert check_fits(resolve("org/unseen"), gpu).reason == "unknown_config"


@pytest.mark.parametrize(
    ("gpu", "profile"),
    [
        ("rtx3060", "qwen3-8b-awq"),
        ("rtx3090", "qwen3-8b-awq"),  # no FP8 units
        ("rtx4090", "qwen3-8b-fp8"),
        ("l40s", "qwen3-14b-fp8"),
        ("h100", "qwen3-32b-fp8"),
    ],
)
def test_the_default_for_a_card_fits_it(gpu: str, profile: str) -> None:
    picked = pick_profile(gpu_named(gpu))
    assert picked.name == profile
    assert check_fits(picked, gpu_named(gpu)).concurrent >= 1


def test_every_known_card_has_a_default_and_too_small_a_card_is_told_so() -> None:
    for gpu in KNOWN_GPUS.values():
        assert fit(pick_profile(gpu), gpu).fits
    with pytest.raises(ConfigError, match="the smallest wants 11 GiB"):
        pick_profile(Gpu("small", 6 * GIB, (8, 9)))


def test_cards_are_found_under_the_driver_s_own_names() -> None:
    assert gpu_named("NVIDIA GeForce RTX 4090") is gpu_named("RTX 4090") is KNOWN_GPUS["rtx4090"]
    with pytest.raises(ConfigError, match="gpu-memory-gib"):
        gpu_named("rtx9999")


def test_looking_for_a_gpu_never_raises() -> None:
    gpu = detect_gpu()
    assert gpu is None or gpu.total_bytes > GIB
    assert detect_gpu(index=1000) is None


def test_the_command_prints_the_numbers_and_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--gpu", "rtx4090", "--context", "4096"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(catalogue())
    assert any(line.split()[:1] == ["qwen3-8b-awq"] and "95,687" in line and "23 x 4,096" in line for line in lines)
    assert main(["fit", "--gpu-memory-gib", "80", "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert {r["profile"]: r["fits"] for r in reports}["qwen3-32b-fp8"]

    command = [sys.executable, "-m", "models", "fit", "--gpu", "rtx9999"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert run.stderr.startswith("error: no GPU 'rtx9999'")


@pytest.mark.parametrize(
    "arguments",
    [["fit", "--gpu-memory-gib", "-1"], ["fit", "--gpu", "t4", "--context", "0"], ["fit", "nothing", "--gpu", "t4"]],
)
def test_bad_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_prices_are_printed_with_their_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["price", "gemini-4-argon", "--on", "2026-12-01"]) == 0
    assert main(["price", "qwen3-8b-awq"]) == 0
    hosted, local = capsys.readouterr().out.splitlines()
    assert hosted.startswith("in $4, cached in $0.2") and hosted.endswith("on 2026-12-01)")
    assert "$0.4/h at 5000 + 975 tokens/s" in local and local.endswith("as of 2026-11-22)")
    assert main(["price", "no-such-model"]) == 2
