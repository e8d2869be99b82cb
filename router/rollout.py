"""How far the learned router acts, turned while it runs: `rollout.json` beside the artifacts.

Without the file the service's configuration has the word; with it the file has, from a second after it was written.
Knows no artifact and no tier.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from models.errors import ConfigError

Mode = Literal["shadow", "act"]
MODES: Final = get_args(Mode)
_FILE: Final = "rollout.json"


@dataclass(frozen=True, slots=True)
class Rollout:
    """mode: `shadow` decides and records, the rules act. share: of conversations acted on, 0..1. Raises ConfigError."""

    mode: Mode
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode is one of {', '.join(MODES)}, not '{self.mode}'")
        if not (isinstance(self.share, int | float) and 0.0 <= self.share <= 1.0):
            raise ConfigError("rollout is a part of the conversations, 0 to 1")

    def __str__(self) -> str:
        return f"act-{self.share:.6g}" if self.mode == "act" else "shadow"


def read(root: Path) -> Rollout | None:
    """None without a file. Raises ConfigError for one that is not what `write` writes."""
    path = root / _FILE
    try:
        stated: Any = json.loads(path.read_text(encoding="utf-8"))
        return Rollout(**stated)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); set it anew: python -m router use --mode") from error


def write(root: Path, rollout: Rollout | None) -> None:
    """Whole or not at all; None takes the file away."""
    root.mkdir(parents=True, exist_ok=True)
    if rollout is None:
        (root / _FILE).unlink(missing_ok=True)
        return
    draft = root / f".{_FILE}-{uuid.uuid4().hex}"
    draft.write_text(json.dumps(asdict(rollout)), encoding="utf-8")
    draft.replace(root / _FILE)


def stamp(root: Path) -> str:
    """Another one whenever the file was written; empty without one. One `stat`: cheap enough to ask every second."""
    try:
        found = (root / _FILE).stat()
    except OSError:
        return ""
    return f"{found.st_ino}-{found.st_mtime_ns}"
