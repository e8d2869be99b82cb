"""`python -m cluster.box`: what a box runs. The door on the TLS port, the engine behind it; started by bootstrap.sh."""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from cluster.box.door import Door
from cluster.box.engine import Engine, say
from cluster.box.identity import Identity
from models.local.gpus import detect_gpu

DRAIN_S = 30


def main() -> int:
    wanted = ("FARTHING_SERVER_NAME", "FARTHING_PROFILE", "FARTHING_DATA", "FARTHING_TLS_PORT")
    if absent := [name for name in wanted if not os.environ.get(name)]:
        say(f"not set: {', '.join(absent)}; this is started by cluster/bootstrap.sh")
        return 2
    data = Path(os.environ["FARTHING_DATA"])
    token = os.environ.pop("FARTHING_JOIN_TOKEN", "")
    identity = Identity(data / "identity", os.environ["FARTHING_SERVER_NAME"], token)
    engine = Engine(os.environ["FARTHING_PROFILE"], data)
    door = Door(identity, engine, data / "heartbeat", description())
    server = uvicorn.Server(tls_config(door, "0.0.0.0", int(os.environ["FARTHING_TLS_PORT"])))
    engine.start()
    try:
        server.run()
    finally:
        engine.stop()
    return 0


def tls_config(door: Door, host: str, port: int) -> uvicorn.Config:
    """The door under TLS only, with a context that takes a new certificate while it serves."""
    config = uvicorn.Config(
        door.app(),
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
        ssl_certfile=door.identity.certificate_file,
        ssl_keyfile=door.identity.private_file,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )
    config.load()
    assert config.ssl is not None  # a certificate was given
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    door.tls = config.ssl
    return config


def description() -> Callable[[], dict[str, Any]]:
    began_s = time.monotonic()
    gpu = detect_gpu()
    name = gpu.name if gpu else "CPU"
    return lambda: {"gpu": name, "up_s": round(time.monotonic() - began_s)}


if __name__ == "__main__":
    sys.exit(main())
