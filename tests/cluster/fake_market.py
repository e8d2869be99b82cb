"""What the fake provider deals in: machines, offers, contracts and their bills, and what it refuses to rent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

ENV_VALUE_LIMIT, SCRIPT_LIMIT, LABEL_LIMIT = 256, 4096, 256
RUNTYPES = ("ssh", "ssh_direct", "ssh_proxy", "jupyter_direct", "jupyter_proxy", "args")
Json = dict[str, Any]
Boot = Literal["runs", "stuck", "exits", "oci", "silent"]


@dataclass
class Machine:
    offer: Json
    boot: Boot = "runs"
    boot_s: float = 0.0
    charged_factor: float = 1.0  # what is billed, over what the offer said
    fail_after_s: float | None = None  # the host disappears this long after the boot
    outbid_after_s: float | None = None


@dataclass
class Contract:
    id: int
    machine: Machine
    body: Json
    created_s: float
    is_bid: bool
    key: str
    stopped: bool = False
    state: str | None = None
    running_since_s: float | None = None
    gpu_s: float = 0.0
    gone_s: float | None = None
    host: str = "127.0.0.1"
    port: int | None = None

    @property
    def label(self) -> str:
        return str(self.body.get("label") or "")

    @property
    def gpu_usd_per_hour(self) -> float:
        base = float(self.body["price"]) if self.is_bid else float(self.machine.offer["dph_base"])
        return base * self.machine.charged_factor

    @property
    def disk_usd_per_hour(self) -> float:
        return float(self.body["disk"]) * float(self.machine.offer["storage_cost"]) / 720

    def gpu_hours(self, now_s: float) -> float:
        running_s = now_s - self.running_since_s if self.running_since_s is not None else 0.0
        return (self.gpu_s + running_s) / 3600

    def bill_usd(self, now_s: float) -> dict[str, float]:
        disk_hours = ((self.gone_s or now_s) - self.created_s) / 3600
        return {"gpu": self.gpu_hours(now_s) * self.gpu_usd_per_hour, "disk": disk_hours * self.disk_usd_per_hour}


def offer(offer_id: int, gpu: str = "RTX 4090", usd: float = 0.40, **changes: Any) -> Json:
    """A good machine's offer, as the search answers it."""
    storage = changes.pop("storage_cost", 0.15)
    return {
        "id": offer_id,
        "ask_contract_id": offer_id,
        "machine_id": 10_000 + offer_id,
        "host_id": 500 + offer_id,
        "gpu_name": gpu,
        "num_gpus": 1,
        "gpu_ram": 24564,
        "gpu_frac": 1.0,
        "gpu_mem_bw": 1008.0,
        "total_flops": 82.6,
        "cpu_cores": None,
        "cpu_cores_effective": 16.0,
        "cpu_ram": 64000,
        "disk_space": 500.0,
        "dph_base": usd,
        "dph_total": usd,
        "min_bid": round(usd / 2, 3),
        "storage_cost": storage,
        "inet_up": 800.0,
        "inet_down": 900.0,
        "inet_up_cost": 0.01,
        "inet_down_cost": 0.005,
        "reliability2": 0.995,
        "verification": "verified",
        "direct_port_count": 50,
        "static_ip": False,
        "public_ipaddr": "127.0.0.1",
        "geolocation": "Sweden, SE",
        "cuda_max_good": 13.0,
        "driver_version": "580.82.07",
        "compute_cap": 890,
        "duration": 2_000_000.0,
        "rentable": True,
        "rented": False,
        "is_bid": False,
        "hosting_type": 0,
        **changes,
    }


def holds(op: str, value: Any, to: Any) -> bool:
    if op in ("in", "notin"):
        # countries are asked for by code and shown as "Sweden, SE"
        inside = any(value == item or str(value).endswith(f", {item}") for item in to)
        return inside if op == "in" else not inside
    if value is None and op != "neq":
        return True  # a name the offers do not carry is not filtered by
    compare = {"eq": "__eq__", "neq": "__ne__", "gt": "__gt__", "gte": "__ge__", "lt": "__lt__", "lte": "__le__"}[op]
    return bool(getattr(value, compare)(to))


def problem_of(body: Json) -> str:
    env = body.get("env", {})
    script = "".join(body.get("args") or []) + str(body.get("args_str") or "") + str(body.get("onstart") or "")
    if not isinstance(env, dict):
        return "env must be an object"
    if any(len(str(value)) > ENV_VALUE_LIMIT for value in env.values()):
        return "an env value is longer than 256"
    if len(script) > SCRIPT_LIMIT:
        return "args and onstart are longer than 4096 together"
    if len(body.get("label") or "") > LABEL_LIMIT:
        return "label is longer than 256"
    if body.get("runtype") not in RUNTYPES:
        return f"no runtype {body.get('runtype')}"
    if not body.get("image") or float(body.get("disk") or 0) < 8:
        return "image, or a disk of at least 8 GB, is missing"
    if "price" in body and not 0.001 <= float(body["price"]) <= 128:
        return "price must be within 0.001 and 128"
    return ""
