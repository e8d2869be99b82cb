"""Speaks to one box through its public TLS port: joins it, asks how it is, measures it.

A box is known by the name in its certificate, whatever address it has at the moment; the authority is the cluster's own
and no other. Its host may answer anything, and must not hold up or end the process that holds the budget: every answer
has a limit of time and size, and what is in it is taken for what it should be or for nothing. Knows no provider and no
state.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import secrets
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from cluster.errors import BoxFailed
from cluster.join import box_proof, controller_proof, equal

TIMEOUT_S = 10.0
MEASURE_S = 120.0  # of one test request
MAX_BYTES = 1 << 20
SHOWN = 200  # characters of what a box says it is doing
PROMPT = "Write one sentence about each year of the last century."


class NotReachable(Exception):
    """No TLS answer yet: a box that boots, or one that is gone."""


class NotAdmitted(Exception):
    """It answered, and does not take our key."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: dict[str, Any]  # empty where it was no JSON object
    certificate_der: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """A box before it has joined, known by the certificate it showed."""

    certificate_der: bytes
    csr: str


@dataclass(frozen=True, slots=True)
class Status:
    ready: bool
    progress: str
    csr: str
    up_s: float


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    server_name: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


def hello(address: Address, token: str) -> Hello:
    """Raises NotReachable; NotAdmitted when it has joined already; BoxFailed when it is not our box."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # proven below, by the token
    nonce = secrets.token_urlsafe(24)
    answer = _ask(context, "GET", address, f"/farthing/hello?nonce={nonce}")
    if answer.status == 401:
        raise NotAdmitted
    csr, proof = _text(answer.body.get("csr")), _text(answer.body.get("proof"))
    if not equal(proof, box_proof(token, answer.certificate_der, nonce, csr)):
        raise BoxFailed("what answers at the box's address does not know its join token: not our box")
    return Hello(answer.certificate_der, csr)


def join(address: Address, token: str, greeted: Hello, key: str, certificate: str) -> None:
    """Over a connection to the very certificate that proved itself. Raises NotReachable, BoxFailed."""
    pinned = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(greeted.certificate_der))
    pinned.check_hostname = False
    body = json.dumps({"key": key, "certificate": certificate}).encode()
    headers = {"x-farthing-proof": controller_proof(token, greeted.certificate_der, body)}
    answer = _ask(pinned, "POST", address, "/farthing/join", content=body, headers=headers)
    if answer.status != 200:
        raise BoxFailed(f"the box refused to join (status {answer.status})")


class BoxClient:
    """A box that has joined."""

    def __init__(self, address: Address, ca_file: Path, key: str) -> None:
        self._address, self._tls = address, ssl.create_default_context(cafile=str(ca_file))
        self._headers = {"authorization": f"Bearer {key}"}

    def status(self) -> Status:
        """Also sets the dead man's switch back. Raises NotReachable, NotAdmitted."""
        said = self._call("GET", "/farthing/status").body
        progress = "".join(c if c.isprintable() else " " for c in _text(said.get("progress")))
        return Status(said.get("ready") is True, progress[:SHOWN], _text(said.get("csr")), _number(said.get("up_s")))

    def rotate(self, key: str, certificate: str) -> None:
        body = json.dumps({"key": key, "certificate": certificate}).encode()
        if self._call("POST", "/farthing/rotate", content=body).status != 200:
            raise BoxFailed("the box refused its new key")

    def measure(self, model: str, requests: int, output_tokens: int) -> float:
        """Tokens generated a second, all `requests` at once. Raises BoxFailed when one of them gives no text."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
        }

        def one(number: int) -> int:
            varied = {**body, "messages": [{"role": "user", "content": f"{number}. {PROMPT}"}]}
            answer = self._call("POST", "/v1/chat/completions", limit_s=MEASURE_S, json=varied)
            if answer.status != 200:
                raise BoxFailed(f"a test request was refused with status {answer.status}")
            usage = answer.body.get("usage")
            tokens = _number(usage.get("completion_tokens")) if isinstance(usage, dict) else 0.0
            return min(int(tokens), output_tokens)  # more than were asked for are not a measure of speed

        one(0)  # the first pays for what only the first pays
        began_s = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(requests) as pool:
            tokens = sum(pool.map(one, range(1, requests + 1)))
        if not tokens:
            raise BoxFailed("test requests were answered without text")
        return tokens / (time.monotonic() - began_s)

    def _call(self, verb: str, path: str, limit_s: float = TIMEOUT_S, **how: Any) -> Answer:
        answer = _ask(self._tls, verb, self._address, path, limit_s=limit_s, headers=self._headers, **how)
        if answer.status == 401:
            raise NotAdmitted
        return answer


def _ask(tls: ssl.SSLContext, verb: str, address: Address, path: str, limit_s: float = TIMEOUT_S, **how: Any) -> Answer:
    """One request, one connection. The limit is of the whole: sending a byte now and then gains a host nothing."""
    try:
        return asyncio.run(asyncio.wait_for(_asked(tls, verb, address, path, how), limit_s))
    except (httpx2.HTTPError, TimeoutError) as error:
        raise NotReachable(f"{type(error).__name__}: {error}") from error


async def _asked(tls: ssl.SSLContext, verb: str, address: Address, path: str, how: dict[str, Any]) -> Answer:
    named = {"sni_hostname": address.server_name}  # asked for, and held against the certificate
    async with (
        httpx2.AsyncClient(verify=tls, timeout=None, trust_env=False) as http,
        http.stream(verb, address.url + path, extensions=named, **how) as response,
    ):
        stream = response.extensions["network_stream"].get_extra_info("ssl_object")
        certificate, data = stream.getpeercert(True) or b"", b""
        async for chunk in response.aiter_raw():  # as it came: a small archive may unpack to a large one
            data += chunk
            if len(data) > MAX_BYTES:
                raise NotReachable(f"more than {MAX_BYTES} bytes in answer to {verb} {path}")
    return Answer(response.status_code, _json(data), certificate)


def _json(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _text(value: Any) -> str:
    """What can be written down again: JSON may hold halves of characters."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0.0
