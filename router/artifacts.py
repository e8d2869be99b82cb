"""Artifacts (thresholds, probes): folders with a manifest, loaded hot through an atomic pointer.

    artifacts/
      current -> 2026-11-24-a1b2c3      a symbolic link, replaced by rename
      2026-11-24-a1b2c3/manifest.json   kind, version, encoder, data, metrics, hashes of files

A writer fills a new folder and then swaps the pointer; a reader sees the old artifact or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact is and what it was made from. Hashes are SHA-256, hexadecimal."""

    kind: str
    version: str
    created: str
    encoder_sha256: str = ""
    data_sha256: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def write(root: Path, manifest: Manifest, files: dict[str, bytes]) -> Path:
    """Write a whole artifact and make it current; one that is there already, with the same files, is only made current.

    Raises ConfigError when the version exists with other files.
    """
    folder = root / manifest.version
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    if folder.exists():
        if read(folder).files != hashes:
            raise ConfigError(f"artifact {manifest.version} exists already in {root}; choose another version")
        point_to(root, manifest.version)
        return folder
    draft = root / f".draft-{uuid.uuid4().hex}"
    draft.mkdir(parents=True)
    for name, data in files.items():
        (draft / name).write_bytes(data)
    whole = asdict(manifest) | {"files": hashes}
    (draft / "manifest.json").write_text(json.dumps(whole, indent=1, sort_keys=True), encoding="utf-8")
    draft.rename(folder)
    point_to(root, manifest.version)
    return folder


def point_to(root: Path, version: str) -> None:
    """Swap the pointer; also the way back to an earlier version. Raises ConfigError for one that is missing or damaged.

    version: a folder's own name. `current` would make the pointer point to itself, and nothing would be current.
    """
    folder, name = root / version, Path(version).name
    if str(Path(version)) != name or folder.is_symlink() or not (folder / "manifest.json").is_file():
        raise ConfigError(f"there is no artifact {version} in {root}; `python -m router use --artifact {root}` lists")
    read(folder)
    link = root / f".current-{uuid.uuid4().hex}"
    link.symlink_to(name)
    link.replace(root / "current")


def current_version(root: Path) -> str:
    """The version the pointer names, empty without one. One `readlink`: cheap enough to ask every second."""
    try:
        return str((root / "current").readlink())
    except OSError:
        return ""


def load(root: Path, *, encoder_sha256: str = "") -> tuple[Manifest, Path]:
    """The current artifact, its files checked. Raises ConfigError on damage or another encoder."""
    folder = root / current_version(root)
    return read(folder, encoder_sha256=encoder_sha256), folder


def read(folder: Path, *, encoder_sha256: str = "") -> Manifest:
    """The manifest of one artifact, whatever the pointer says; its files are checked. Raises ConfigError as `load`."""
    try:
        manifest = Manifest(**json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(f"{folder}: no readable manifest.json ({exc})") from exc
    for name, wanted in manifest.files.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise ConfigError(f"{path}: missing or changed since it was written; write the artifact anew")
    if encoder_sha256 and manifest.encoder_sha256 != encoder_sha256:
        raise ConfigError(f"{folder}: made with another encoder; its thresholds do not hold for this one")
    return manifest
