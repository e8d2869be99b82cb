"""A box as a stranger sees it: what its door answers without a key and beside its list, and which TCP ports are open.

Nothing here is trusted or changed: it is the check that only the TLS port leads in. Knows no provider and no state.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

import httpx2

from cluster.box_client import Address

TIMEOUT_S = 5.0
KNOCK_S = 1.0
KNOCKS_AT_ONCE = 256
LISTED = ("/v1/models", "/load", "/health", "/farthing/status", "/farthing/hello")
CLOSED = (
    "/metrics",  # vLLM leaves these open even with an API key
    "/invocations",
    "/pause",
    "/update_weights",
    "/tokenize",
    "/score",
    "/v1/embeddings",
    "/openapi.json",
    "/docs",
    "/-/routes",  # Ray Serve's
    "/api/jobs/",
)


def door_faults(address: Address, ca_file: Path, key: str) -> list[str]:
    """What the door should not do and does; empty when all is well."""
    faults = [] if not _answers_plain(address) else ["answers plain HTTP"]
    if _speaks_tls12(address):
        faults.append("takes TLS 1.2")
    with httpx2.Client(
        verify=ssl.create_default_context(cafile=str(ca_file)), timeout=TIMEOUT_S, trust_env=False
    ) as http:
        for path in LISTED:
            if (status := _status(http, address, path, "")) != 401:
                faults.append(f"{path} without a key: {status}")
        for path in CLOSED:
            if (status := _status(http, address, path, key)) != 404:
                faults.append(f"{path}: {status}")
    return faults


def open_ports(host: str, ports: Iterable[int]) -> list[int]:
    """The TCP ports of `ports` that take a connection. One that does not answer in a second counts as closed."""
    return asyncio.run(_open(host, iter(ports)))


async def _open(host: str, ports: Iterable[int]) -> list[int]:
    found: list[int] = []

    async def knock_on() -> None:
        for port in ports:  # one iterator for all
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(KNOCK_S):
                    _, writer = await asyncio.open_connection(host, port)
                if writer.get_extra_info("sockname") != writer.get_extra_info("peername"):
                    found.append(port)  # else the kernel has joined a free port of this host with itself
                writer.close()

    await asyncio.gather(*(knock_on() for _ in range(KNOCKS_AT_ONCE)))
    return sorted(found)


def _status(http: httpx2.Client, address: Address, path: str, key: str) -> int | str:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        named = {"sni_hostname": address.server_name}
        return http.get(address.url + path, headers=headers, extensions=named).status_code
    except httpx2.HTTPError as error:
        return type(error).__name__


def _answers_plain(address: Address) -> bool:
    try:
        httpx2.get(address.url.replace("https", "http", 1) + "/health", timeout=TIMEOUT_S, trust_env=False)
    except httpx2.HTTPError:
        return False
    return True


def _speaks_tls12(address: Address) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whether it speaks, not who it is
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with socket.create_connection((address.host, address.port), TIMEOUT_S) as raw, context.wrap_socket(raw):
            return True
    except OSError:
        return False
