"""Where one running instance keeps its things, and how its processes find each other. Plain values, picklable.

<state>/                 ledger.db, journal/, cache.db, models/, artifacts/       kept
<state>/run/             lock, instance.json, engine.token, engines.json,
                         secrets/, metrics/                                       made anew at every start, 0700
<state>/nodes/ADDRESS/   on another node of a cluster that has gateways: its own journal/ and run/
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from models.errors import ConfigError, Unavailable
from serving.config import Config, HttpBackend

OPERATOR_PREFIX = "fo-"


@dataclass(frozen=True, slots=True)
class Runtime:
    """Paths and addresses of one instance."""

    state: Path
    base_url: str
    metrics_in_service: bool
    admin_port: int | None = None
    clustered: bool = False  # on a Ray cluster of several nodes, where engines see none of these paths
    node: str = ""  # the address of the node it is about, where that is not the head

    def on_node(self, address: str) -> Runtime:
        """The same instance's on another node. Its folder has the node's name: nodes may share a disk."""
        return replace(self, state=self.state / "nodes" / address.replace(":", "_"), node=address)

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def journal(self) -> Path:
        return self.state / "journal"

    @property
    def cache_file(self) -> Path:
        return self.state / "cache.db"

    @property
    def semantic_file(self) -> Path:
        return self.state / "semantic.db"

    @property
    def metrics(self) -> Path:
        return self.run / "metrics"

    @property
    def engine_token_file(self) -> Path:
        return self.run / "engine.token"

    @property
    def operator_token_file(self) -> Path:
        """What the command line shows the running service to be let in as its operator."""
        return self.run / "operator.token"

    def engine_url(self, tier: str) -> str:
        return f"{self.base_url}{engine_prefix(tier)}/v1"

    def presence(self, tier: str) -> Path:
        """Where this tier's engines announce themselves."""
        return self.run / "engines" / tier

    @property
    def engines_file(self) -> Path:
        """In a cluster of nodes: which engines there are, as members of their tier's pool."""
        return self.run / "engines.json"

    def members_file(self, file: Path) -> Path:
        """Where members that `file` on the head lists are to be read."""
        name = hashlib.sha256(str(file).encode()).hexdigest()[:16]
        return self.run / "members" / f"{name}.json" if self.node else file

    @property
    def nodes_file(self) -> Path:
        """While the instance drains: what gateways on other nodes have still to do."""
        return self.run / "nodes.json"

    @property
    def draining_file(self) -> Path:
        """There while the instance lets requests under way finish and takes no new ones."""
        return self.run / "draining"

    def secret_file(self, backend_name: str) -> Path:
        return self.run / "secrets" / backend_name.replace("/", "-")


def engine_prefix(tier: str) -> str:
    return f"/engine/{tier}"


def fresh_run_folder(runtime: Runtime) -> None:
    """Empty the run folder (its lock stays) and make what every process of the instance needs."""
    for entry in runtime.run.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()
    runtime.metrics.mkdir()
    (runtime.run / "secrets").mkdir(mode=0o700)
    write_secret(runtime.engine_token_file, secrets.token_urlsafe(32))
    write_secret(runtime.operator_token_file, OPERATOR_PREFIX + secrets.token_urlsafe(32))


def write_secret(path: Path, value: str) -> None:
    """Write a file nobody else can read, whatever the umask and whatever was there before."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(fd, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(value)


def forget_secrets(runtime: Runtime) -> None:
    """At the end of an instance: keys are kept on disk only while something reads them."""
    for path in [runtime.engine_token_file, runtime.operator_token_file, *(runtime.run / "secrets").glob("*")]:
        path.unlink(missing_ok=True)


def read_secret(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


@dataclass(slots=True)
class KeyFile:
    """A key read when first used and again when its file changes: a key can be rotated without a restart.

    A rented box's file goes with the box, maybe before the box has left its pool: then the last key is still right, and
    without one Unavailable is raised, which lets another answer.
    """

    path: Path
    _value: str = ""
    _mtime_ns: int = -1

    def __call__(self) -> str:
        try:
            mtime_ns = self.path.stat().st_mtime_ns
            if mtime_ns != self._mtime_ns:
                self._value, self._mtime_ns = read_secret(self.path), mtime_ns
        except FileNotFoundError as exc:
            if not self._value:
                raise Unavailable(f"there is no key in {self.path.name} any more") from exc
        return self._value


def collect_key(backend: HttpBackend, environ: dict[str, str]) -> str | None:
    """The key a backend is configured to use; None when its place is empty. Raises ConfigError on an open file."""
    if backend.key_file is not None:
        if not backend.key_file.is_file():
            return None
        if backend.key_file.stat().st_mode & 0o077:
            raise ConfigError(f"{backend.key_file}: others can read this key; run: chmod 600 {backend.key_file}")
        return read_secret(backend.key_file) or None
    return environ.get(backend.key_env or "") or None


def store_keys(config: Config, runtime: Runtime, environ: dict[str, str]) -> dict[str, bool]:
    """Put every backend's key into a file of its own; returns by backend name whether there is one.

    Raises ConfigError for a tier that needs its key and is not optional.
    """
    found: dict[str, bool] = {}
    for tier in config.tiers:
        for index, backend in enumerate(tier.backends):
            if not isinstance(backend, HttpBackend) or not backend.wants_key:
                continue
            name = f"{tier.name}/{index}"
            key = collect_key(backend, environ)
            found[name] = key is not None
            if key is not None:
                write_secret(runtime.secret_file(name), key)
            elif not tier.optional:
                place = backend.key_env or backend.key_file
                raise ConfigError(f"tier '{tier.name}': no key in {place}; set it, or mark the tier `optional: true`")
    return found


def without_secrets(environ: dict[str, str], config: Config | None = None) -> dict[str, str]:
    """The environment that may reach Ray: every process of the cluster inherits it, and its dashboard can show it."""
    backends = [backend for tier in config.tiers for backend in tier.backends] if config is not None else []
    named = {b.key_env for b in backends if isinstance(b, HttpBackend) and b.key_env}
    endings = ("_API_KEY", "_SECRET", "_SECRET_KEY", "_ACCESS_KEY", "_PASSWORD", "_TOKEN")
    return {k: v for k, v in environ.items() if k not in named and not k.upper().endswith(endings)}
