"""The provider's records as we use them: offers, instances, charges. Reads its JSON, knows no HTTP.

Shapes and units are those of vast.ai's API reference (docs.vast.ai, read 2026-11): memory in MB, storage in USD per GB
and 30-day month, traffic in USD per GB, ports as strings and only while an instance runs. Fields we do not need are
dropped, so that a field added there changes nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HOURS_PER_MONTH = 30 * 24
ENDLESS = 1e15  # beyond any size, price or time there is
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Offer:
    """One machine's offer. `usd_per_hour` is all in: GPU and the disk that was asked for."""

    offer_id: int
    machine_id: int
    gpu_name: str
    num_gpus: int
    gpu_ram_mb: float
    compute_cap: int  # 890 is 8.9
    cuda_max: float
    driver: str
    usd_per_hour: float
    min_bid_usd_per_hour: float
    storage_usd_per_gb_month: float
    down_usd_per_gb: float
    down_mbps: float
    reliability: float
    memory_gb_per_s: float | None
    tflops: float | None
    place: str
    datacenter: bool

    @classmethod
    def read(cls, raw: Json) -> Offer:
        """Raises ValueError for a price or a size that cannot be one: such an offer is nobody's bargain."""
        if not (price := _amount(raw["dph_total"])):
            raise ValueError("an offer without a price")
        return cls(
            offer_id=int(raw["id"]),
            machine_id=int(raw["machine_id"]),
            gpu_name=str(raw["gpu_name"]),
            num_gpus=int(raw.get("num_gpus") or 1),
            gpu_ram_mb=_amount(raw["gpu_ram"]),
            compute_cap=int(raw.get("compute_cap") or 0),
            cuda_max=_amount(raw.get("cuda_max_good")),
            driver=str(raw.get("driver_version") or ""),
            usd_per_hour=price,
            min_bid_usd_per_hour=_amount(raw.get("min_bid")),
            storage_usd_per_gb_month=_amount(raw.get("storage_cost")),
            down_usd_per_gb=_amount(raw.get("inet_down_cost")),
            down_mbps=_amount(raw.get("inet_down")),
            reliability=_amount(raw.get("reliability2")),
            memory_gb_per_s=_positive(raw.get("gpu_mem_bw")),
            tflops=_positive(raw.get("total_flops")),
            place=str(raw.get("geolocation") or ""),
            datacenter=raw.get("hosting_type") in (1, "1", "datacenter") or bool(raw.get("datacenter")),
        )

    def disk_usd_per_hour(self, disk_gb: int) -> float:
        return disk_gb * self.storage_usd_per_gb_month / HOURS_PER_MONTH


@dataclass(frozen=True, slots=True)
class Instance:
    """One rental as the provider sees it. `status` is its `actual_status`, None while it has none yet."""

    contract_id: int
    label: str
    status: str | None
    status_msg: str
    current: str
    intended: str
    usd_per_hour: float
    disk_gb: float
    storage_usd_per_gb_month: float
    host: str
    ports: Mapping[str, int]
    ssh_host: str
    ssh_port: int
    end_at_s: float | None
    gpu_util: float | None

    @classmethod
    def read(cls, raw: Json) -> Instance:
        return cls(
            contract_id=int(raw["id"]),
            label=str(raw.get("label") or ""),
            status=raw.get("actual_status"),
            status_msg=str(raw.get("status_msg") or "").strip(),
            current=str(raw.get("cur_state") or ""),
            intended=str(raw.get("intended_status") or ""),
            usd_per_hour=_positive(raw.get("dph_total")) or 0.0,
            disk_gb=_positive(raw.get("disk_space")) or 0.0,
            storage_usd_per_gb_month=_positive(raw.get("storage_cost")) or 0.0,
            host=str(raw.get("public_ipaddr") or "").strip(),  # has been seen with a newline
            ports=_ports(raw.get("ports")),
            ssh_host=str(raw.get("ssh_host") or "").strip(),
            ssh_port=int(raw.get("ssh_port") or 0),
            end_at_s=_positive(raw.get("end_date")),
            gpu_util=_number(raw.get("gpu_util")),
        )

    @property
    def paused(self) -> bool:
        """Outbid, or stopped by hand: the GPU is somebody else's, the disk still bills, and it may come back."""
        return self.current == "stopped" and self.intended == "stopped"

    @property
    def dead(self) -> bool:
        """It will not run here any more, and bills its disk until it is destroyed."""
        if self.status in ("exited", "unknown", "offline"):
            return True
        return self.status_msg.startswith("Error") or "OCI runtime create failed" in self.status_msg

    @property
    def running(self) -> bool:
        return self.status == "running" and not self.paused

    @property
    def billed_usd_per_hour(self) -> float:
        """What it costs in its present state: everything while it runs, else its disk."""
        return self.usd_per_hour if self.running else self.disk_gb * self.storage_usd_per_gb_month / HOURS_PER_MONTH


@dataclass(frozen=True, slots=True)
class Charge:
    """What the provider billed for one contract over a span of days, USD to three decimals."""

    contract_id: int
    label: str
    amount_usd: float
    by_kind_usd: Mapping[str, float]

    @classmethod
    def read(cls, raw: Json) -> Charge:
        kinds: dict[str, float] = {}
        for item in raw.get("items") or []:
            kinds[str(item.get("type"))] = kinds.get(str(item.get("type")), 0.0) + float(item.get("amount") or 0)
        return cls(
            contract_id=int(str(raw.get("source") or "instance-0").rpartition("-")[2] or 0),
            label=str((raw.get("metadata") or {}).get("label") or ""),
            amount_usd=float(raw.get("amount") or 0),
            by_kind_usd=kinds,
        )


@dataclass(frozen=True, slots=True)
class PriceIncrease:
    """A host asks for more on a running contract. Never accepted by us: over the cap, the box is replaced."""

    contract_id: int
    usd_per_hour: float

    @classmethod
    def read(cls, raw: Json) -> PriceIncrease:
        per_second = float(raw.get("new_gpu_costpersec") or 0) + float(raw.get("new_disk_ram_costpersec") or 0)
        return cls(int(raw["contract_id"]), per_second * 3600)


def _ports(raw: Any) -> dict[str, int]:
    """`{"8443/tcp": [{"HostPort": "33526"}]}` to `{"8443/tcp": 33526}`; null until the instance runs."""
    if not isinstance(raw, Mapping):
        return {}
    return {name: int(maps[0]["HostPort"]) for name, maps in raw.items() if maps and maps[0].get("HostPort")}


def _amount(raw: Any) -> float:
    """Nothing is 0. Raises ValueError for what is negative, endless or no number."""
    value = float(raw or 0)
    if not 0 <= value < ENDLESS:
        raise ValueError(f"{raw!r} is no amount")
    return value


def _positive(raw: Any) -> float | None:
    value = _number(raw)
    return value if value is not None and value > 0 else None


def _number(raw: Any) -> float | None:
    return float(raw) if isinstance(raw, int | float) and -ENDLESS < raw < ENDLESS else None
