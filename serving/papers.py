"""The small files of an instance that its gateways on other nodes need: gathered at the head, placed on the node.

Internal tokens, the keys of providers, and which engines and boxes there are with the keys of those. Names are relative
to a `run` folder. Knows no transport.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from serving import members
from serving.config import Config, MembersBackend
from serving.members import Member
from serving.runtime import Runtime

ENGINE_TOKEN, ENGINES = "engine.token", "engines.json"
LOCK = "lock"

Papers = Mapping[str, bytes]


def digest(papers: Papers) -> str:
    found = hashlib.sha256()
    for name in sorted(papers):
        found.update(f"{name}\0{len(papers[name])}\0".encode() + papers[name])
    return found.hexdigest()


def gather(config: Config, runtime: Runtime) -> dict[str, bytes]:
    """Raises OSError or ValueError for a file that is just being replaced, or lists no members."""
    secrets = sorted((runtime.run / "secrets").glob("*"))
    fixed = [runtime.engine_token_file, runtime.operator_token_file, *secrets]
    found = {str(path.relative_to(runtime.run)): path.read_bytes() for path in fixed}
    lists = {ENGINES: runtime.engines_file} if runtime.engines_file.exists() else {}
    away = runtime.on_node("any")
    for backend in (backend for tier in config.tiers for backend in tier.backends):
        if isinstance(backend, MembersBackend):
            lists[str(away.members_file(backend.file).relative_to(away.run))] = backend.file
    for name, file in lists.items():
        listed = [_relative(member, runtime, found) for member in members.read(file)]
        found[name] = json.dumps({"version": 1, "members": listed}).encode()
    return found


def _relative(member: Member, runtime: Runtime, found: dict[str, bytes]) -> dict[str, str]:
    """A member with its files under names of their own, and those files put to what was found."""
    entry = {"url": member.url, "model": member.model}
    for field, path in (("key_file", member.key_file), ("ca_file", member.ca_file)):
        if path is None:
            continue
        own = path == runtime.engine_token_file
        entry[field] = ENGINE_TOKEN if own else f"keys/{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
        found[entry[field]] = path.read_bytes()
    return entry


def place(papers: Papers, runtime: Runtime) -> None:
    """Make the node's run folder like these, touching only what differs: a key is read again when its file changes.

    What another instance left there goes first. Several processes of the node may do it at once.
    """
    runtime.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(runtime.state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _content(runtime.engine_token_file) != papers[ENGINE_TOKEN]:
            shutil.rmtree(runtime.run)
        runtime.metrics.mkdir(parents=True, exist_ok=True)
        runtime.run.chmod(0o700)
        for name in sorted(papers, key=lambda name: name.endswith(".json")):  # lists after the keys they name
            _write(runtime.run / name, _placed(name, papers[name], runtime.run))
        for folder in ("keys", "members"):
            for path in (runtime.run / folder).glob("*"):
                if f"{folder}/{path.name}" not in papers:
                    path.unlink()
    finally:
        os.close(fd)


def forget(runtime: Runtime) -> None:
    """At the end: keys stay on a node's disk only while something reads them."""
    for name in ("secrets", "keys", "members"):
        shutil.rmtree(runtime.run / name, ignore_errors=True)
    for path in (runtime.engine_token_file, runtime.operator_token_file):
        path.unlink(missing_ok=True)


def _placed(name: str, data: bytes, run: Path) -> bytes:
    """A list of members names its files by where they are on this node."""
    if not name.endswith(".json"):
        return data
    told = json.loads(data)
    for member in told["members"]:
        member.update({field: str(run / member[field]) for field in ("key_file", "ca_file") if field in member})
    return json.dumps(told).encode()


def _write(path: Path, data: bytes) -> None:
    if _content(path) == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(path.name + ".draft")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    draft.replace(path)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
