"""Which GPU is here: none without a driver, and otherwise what NVML says."""

from __future__ import annotations

import sys
import types

import pytest

from models.errors import ConfigError
from models.local.gpus import GIB, KNOWN_GPUS, Gpu, detect_gpu, gpu_named, known_name


class NVMLError(Exception):
    pass


def nvml(**functions: object) -> types.ModuleType:
    """A pynvml of the test's own."""
    module = types.ModuleType("pynvml")
    module.NVMLError = NVMLError  # type: ignore[attr-defined]
    module.nvmlMemory_v2 = 2  # type: ignore[attr-defined]
    module.closed = 0  # type: ignore[attr-defined]

    def shutdown() -> None:
        module.closed += 1  # type: ignore[attr-defined]

    memory = types.SimpleNamespace(total=24 * GIB, reserved=GIB // 2)
    working = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": shutdown,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle, version: memory,
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 9),
        "nvmlDeviceGetName": lambda handle: "NVIDIA GeForce RTX 4090",
    }
    module.__dict__.update(working | functions)
    return module


def fails(*_: object, **__: object) -> None:
    raise NVMLError("Driver Not Loaded")


def test_no_library_and_no_driver_are_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert detect_gpu() is None
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlInit=fails))
    assert detect_gpu() is None


def test_a_card_that_cannot_be_asked_is_no_gpu_and_nvml_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    library = nvml(nvmlDeviceGetHandleByIndex=fails)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert detect_gpu() is None
    assert library.closed == 1


def test_a_card_is_what_cuda_would_report_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert detect_gpu() == Gpu("NVIDIA GeForce RTX 4090", 24 * GIB - GIB // 2, (8, 9))


@pytest.mark.parametrize("name", ["rtx4090", "RTX 4090", "NVIDIA GeForce RTX 4090", "A100-80", "a100 80"])
def test_a_card_goes_by_the_names_people_use(name: str) -> None:
    assert gpu_named(name) in KNOWN_GPUS.values()


def test_an_unknown_card_is_told_what_to_do() -> None:
    with pytest.raises(ConfigError, match="--gpu-memory-gib"):
        gpu_named("voodoo2")


def test_fp8_is_native_from_ada_on() -> None:
    assert gpu_named("rtx4090").fp8_native and gpu_named("h100").fp8_native
    assert not gpu_named("rtx3090").fp8_native and not Gpu("24 GiB", 24 * GIB).fp8_native


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("H100 SXM", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("H100 PCIE", None),
        ("H100 NVL", None),
        ("NVIDIA B300", None),
        (None, None),
    ],
)
def test_one_chip_has_many_names_and_other_builds_of_it_are_others(name: str | None, known: str | None) -> None:
    assert known_name(name) == known
