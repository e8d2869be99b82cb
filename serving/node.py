"""`python -m serving node --head | --join ADDRESS`: this machine as a node of a Ray cluster, in the foreground.

Owns what must hold on every node before Ray starts there: its token, its environment, no secrets in it. Then it becomes
`ray start`. Knows nothing of the service that will run on the nodes, and imports no Ray.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from models.errors import ConfigError
from serving import haproxy
from serving.config import RayCluster
from serving.runtime import read_secret, without_secrets, write_secret

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 6379
MIN_TOKEN_CHARACTERS = 32
RAYLET = {
    # Without it a killed engine replica leaves vLLM's processes alive, holding the GPU's memory.
    "RAY_process_group_cleanup_enabled": "1",
    # Ray's replicas run at niceness 15, which on a machine with anything else to do starves who must answer.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What a node's own processes read when they start: it cannot be told to them later."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--head", action="store_true", help="the first node; `serving run --ray-address` goes here too")
    which.add_argument("--join", metavar="ADDRESS", help="the head's address, 192.0.2.10:6379")
    parser.add_argument("--ip", help="this machine's address on the network of the nodes (default: found by --join)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"of the head (default: {DEFAULT_PORT})")
    token = RayCluster().token_file
    parser.add_argument("--token-file", type=Path, default=token, help=f"made by --head, 0600 (default: {token})")
    parser.add_argument("ray", nargs="*", metavar="ARGUMENT", help="after --: further arguments of `ray start`")


def become_node(arguments: argparse.Namespace) -> int:
    """Does not return: this process becomes `ray start --block`, and ending it ends the node. Raises ConfigError."""
    line = command(arguments)
    token = token_file(arguments.token_file, make=arguments.head)
    clean = environment(os.environ, token, _own_address(arguments))
    print(f"farthing: {' '.join(line[1:])}", file=sys.stderr, flush=True)
    os.execve(line[0], line, clean)


def command(arguments: argparse.Namespace) -> list[str]:
    """`ray start` for this node, without the dashboard: its job API runs what it is sent."""
    head = ["--head", f"--port={arguments.port}", "--include-dashboard=false"]
    where = head if arguments.head else [f"--address={arguments.join}"]
    fixed = [f"--node-ip-address={_own_address(arguments)}", "--disable-usage-stats", "--block"]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *fixed, *arguments.ray]


def token_file(path: Path, *, make: bool) -> Path:
    """The token every node shows the others, in a file nobody else can read. Raises ConfigError."""
    path = path.resolve()
    if make and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_secret(path, secrets.token_hex(32))
    if not path.is_file():
        raise ConfigError(f"no token in {path}: copy it from the head over a channel you trust, and chmod 600 it")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others can read this token; run: chmod 600 {path}")
    if len(read_secret(path)) < MIN_TOKEN_CHARACTERS:
        raise ConfigError(f"{path}: a token has at least {MIN_TOKEN_CHARACTERS} characters; delete it to get a new one")
    return path


def environment(environ: Mapping[str, str], token: Path, address: str) -> dict[str, str]:
    """Every process of the node inherits it. Keys of providers have no business here: gateways are given theirs."""
    clean = without_secrets(dict(environ))
    paths = os.pathsep.join(filter(None, [str(ROOT), clean.get("PYTHONPATH", "")]))
    return {**clean, **RAYLET, **haproxy.on_node(address), **with_token(token), "PYTHONPATH": paths}


def with_token(token: Path) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def _own_address(arguments: argparse.Namespace) -> str:
    """Where the other nodes reach this machine. Raises ConfigError."""
    if arguments.head and not arguments.ip:
        raise ConfigError("--head needs --ip, the address at which the other nodes reach this machine")
    return str(arguments.ip or _address_towards(arguments.join))


def _address_towards(address: str) -> str:
    """This machine's address on the way to another. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, int(port)))  # sends nothing
            return str(probe.getsockname()[0])
    except (OSError, ValueError) as exc:
        raise ConfigError(f"--join {address}: not an address like 192.0.2.10:6379 that can be reached ({exc})") from exc
