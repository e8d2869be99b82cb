"""How many requests the boxes have answered, by the ledger of the service that uses them.

Asked as an operator would ask, with the service's own command line; nothing else is known of the service but that its
file names the members file as a backend.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ClusterError

LIMIT_S = 120.0


def answered_by_day(service: Path, members: Path, since: str) -> dict[str, int]:
    """UTC day → requests, from the day `since` on. Raises ClusterError when the service's file or ledger is mute."""
    tiers = tiers_of(service, members)
    command = [sys.executable, "-m", "serving", "costs", "--config", str(service), "--since", since, "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"the ledger of {service} did not answer within {LIMIT_S:.0f} s") from error
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ClusterError(f"the ledger of {service} cannot be read: {words}")
    by_day: dict[str, dict[str, int]] = json.loads(done.stdout)["answered_by_day"]
    return {day: sum(routes.get(tier, 0) for tier in tiers) for day, routes in by_day.items()}


def tiers_of(service: Path, members: Path) -> list[str]:
    """The tiers of the service that these boxes are. Raises ClusterError when there is none."""
    try:
        document: Any = yaml.safe_load(service.read_text(encoding="utf-8"))
        listed = [
            (str(tier["name"]), Path(backend["file"]).resolve())
            for tier in document["tiers"]
            for backend in tier["backends"]
            if backend.get("kind") == "members"
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(f"{service} is no file of the service ({type(error).__name__})") from error
    found = [name for name, file in listed if file == members.resolve()]
    if not found:
        raise ClusterError(f"no tier of {service} has these boxes: none names {members.resolve()}")
    return found
