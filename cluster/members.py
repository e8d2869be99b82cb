"""The file by which a running gateway learns its pool: which boxes serve now. Replaced atomically at each change.

    {"version": 1, "updated_at_s": 1764160000.0, "members": [
      {"url": "https://203.0.113.7:33526/v1", "model": "qwen3-8b-awq",
       "key_file": "/srv/farthing/cluster/default/keys/....key", "ca_file": "/srv/farthing/cluster/default/ca.pem"}]}

A box is listed from the moment it has been warmed up and measured, and is taken out before it is told to end. The file
holds paths of keys, never keys. Knows neither boxes nor the gateway.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.state import write_private

FILE = "members.json"


@dataclass(frozen=True, slots=True)
class Member:
    url: str
    model: str
    key_file: str
    ca_file: str


def publish(path: Path, members: Iterable[Member], now_s: float) -> bool:
    """Write the file if the members changed. True when it was written."""
    wanted = [asdict(member) for member in sorted(members, key=lambda m: m.key_file)]
    if read(path) == wanted and path.exists():
        return False
    document = {"version": 1, "updated_at_s": round(now_s, 3), "members": wanted}
    write_private(path, json.dumps(document, indent=1).encode())
    return True


def read(path: Path) -> list[dict[str, str]]:
    try:
        members: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))["members"]
    except (OSError, ValueError, KeyError):
        return []
    return members
