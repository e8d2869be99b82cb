"""The GPUs we know, and the one in this machine. Knows no models.

Sizes are what CUDA reports as total, a few hundred MB below the label: the driver keeps the rest, and vLLM takes its
share of this number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.errors import ConfigError

GIB = 1 << 30
FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    total_bytes: int
    capability: tuple[int, int] | None = None  # CUDA compute capability; None when only the size is known

    @property
    def fp8_native(self) -> bool:
        """Whether its tensor cores multiply FP8; below that vLLM unpacks FP8 weights to 16 bit as it goes."""
        return self.capability is not None and self.capability >= FP8_CAPABILITY


# name: (GiB as CUDA reports it, compute capability)
_KNOWN: dict[str, tuple[float, tuple[int, int]]] = {
    "t4": (14.6, (7, 5)),
    "l4": (22.0, (8, 9)),
    "a10": (22.0, (8, 6)),
    "rtx3060": (11.6, (8, 6)),
    "rtx3090": (23.6, (8, 6)),
    "rtx4060ti": (15.6, (8, 9)),
    "rtx4080": (15.6, (8, 9)),
    "rtx4090": (23.5, (8, 9)),
    "rtx5080": (15.4, (12, 0)),
    "rtx5090": (31.3, (12, 0)),
    "a6000": (47.4, (8, 6)),
    "rtx6000ada": (47.4, (8, 9)),
    "l40s": (44.4, (8, 9)),
    "a100-40": (39.4, (8, 0)),
    "a100-80": (79.1, (8, 0)),
    "h100": (79.1, (9, 0)),
    "h200": (139.7, (9, 0)),
    "rtxpro6000": (94.9, (12, 0)),
}
KNOWN_GPUS = {name: Gpu(name, int(gib * GIB), capability) for name, (gib, capability) in _KNOWN.items()}


def gpu_named(name: str) -> Gpu:
    """`rtx4090`, `RTX 4090` and `NVIDIA GeForce RTX 4090` are the same card; so are `H100 SXM` and its NVML name,
    `NVIDIA H100 80GB HBM3`. Other builds of one chip (PCIe, NVL) are slower or larger, and no card of the table.
    """
    wanted = re.sub(r"nvidia|geforce|sxm\d*|hbm\d+e?|[^a-z0-9]", "", name.lower())
    names = {wanted}
    if wanted.endswith("gb"):  # the size is part of the table's name only where a card comes in two
        names |= {wanted.removesuffix("gb"), re.sub(r"(?<=\D\d{3})\d+gb$", "", wanted)}
    for known, gpu in KNOWN_GPUS.items():
        if known.replace("-", "") in names:
            return gpu
    raise ConfigError(f"no GPU '{name}' in the table ({', '.join(KNOWN_GPUS)}); state its size with --gpu-memory-gib")


def known_name(name: str | None) -> str | None:
    """The table's name for it, or None: no GPU, or one that is not there."""
    try:
        return None if name is None else gpu_named(name).name
    except ConfigError:
        return None


def detect_gpu(index: int = 0) -> Gpu | None:
    """The NVIDIA GPU of this machine, or None: no card, no driver or no `nvidia-ml-py` are all the same answer."""
    try:
        import pynvml  # in the GPU requirement set only
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return Gpu(str(pynvml.nvmlDeviceGetName(handle)), memory.total - memory.reserved, (major, minor))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
