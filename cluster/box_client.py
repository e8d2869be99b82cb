"""Speaks to one box through its public TLS port: joins it, asks how it is, measures it.

A box is known by the name in its certificate, whatever address it has at the moment; the authority is the cluster's own
and no other. Knows no provider and no state.
"""

from __future__ import annotations

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
PROMPT = "Write one sentence about each year of the last century."


class NotReachable(Exception):
    """No TLS answer yet: a box that boots, or one that is gone."""


class NotAdmitted(Exception):
    """It answered, and does not take our key."""


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
    with httpx2.Client(verify=context, timeout=TIMEOUT_S, trust_env=False) as http:
        response = _ask(http, "GET", address, f"/farthing/hello?nonce={nonce}")
        stream = response.extensions["network_stream"].get_extra_info("ssl_object")
        certificate = stream.getpeercert(True) or b""
    if response.status_code == 401:
        raise NotAdmitted
    answer = _json(response)
    csr, proof = str(answer.get("csr")), str(answer.get("proof"))
    if not equal(proof, box_proof(token, certificate, nonce, csr)):
        raise BoxFailed("what answers at the box's address does not know its join token: not our box")
    return Hello(certificate, csr)


def join(address: Address, token: str, greeted: Hello, key: str, certificate: str) -> None:
    """Over a connection to the very certificate that proved itself. Raises NotReachable, BoxFailed."""
    pinned = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(greeted.certificate_der))
    pinned.check_hostname = False
    body = json.dumps({"key": key, "certificate": certificate}).encode()
    headers = {"x-farthing-proof": controller_proof(token, greeted.certificate_der, body)}
    with httpx2.Client(verify=pinned, timeout=TIMEOUT_S, trust_env=False) as http:
        response = _ask(http, "POST", address, "/farthing/join", content=body, headers=headers)
    if response.status_code != 200:
        raise BoxFailed(f"the box refused to join (status {response.status_code})")


class BoxClient:
    """A box that has joined."""

    def __init__(self, address: Address, ca_file: Path, key: str) -> None:
        self._address = address
        self._http = httpx2.Client(
            verify=ssl.create_default_context(cafile=str(ca_file)),
            headers={"authorization": f"Bearer {key}"},
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def __enter__(self) -> BoxClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def status(self) -> Status:
        """Also sets the dead man's switch back. Raises NotReachable, NotAdmitted."""
        answer = _json(self._call("GET", "/farthing/status"))
        return Status(
            ready=bool(answer.get("ready")),
            progress=str(answer.get("progress") or ""),
            csr=str(answer.get("csr") or ""),
            up_s=float(answer.get("up_s") or 0),
        )

    def rotate(self, key: str, certificate: str) -> None:
        body = json.dumps({"key": key, "certificate": certificate}).encode()
        if self._call("POST", "/farthing/rotate", content=body).status_code != 200:
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
            response = self._call("POST", "/v1/chat/completions", json=varied, timeout=120.0)
            if response.status_code != 200:
                raise BoxFailed(f"a test request was refused with status {response.status_code}")
            return int(_json(response).get("usage", {}).get("completion_tokens") or 0)

        one(0)  # the first pays for what only the first pays
        began_s = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(requests) as pool:
            tokens = sum(pool.map(one, range(1, requests + 1)))
        if not tokens:
            raise BoxFailed("test requests were answered without text")
        return tokens / (time.monotonic() - began_s)

    def _call(self, verb: str, path: str, **how: Any) -> httpx2.Response:
        response = _ask(self._http, verb, self._address, path, **how)
        if response.status_code == 401:
            raise NotAdmitted
        return response


def _ask(http: httpx2.Client, verb: str, address: Address, path: str, **how: Any) -> httpx2.Response:
    named = {"sni_hostname": address.server_name}  # asked for, and held against the certificate
    try:
        return http.request(verb, address.url + path, extensions=named, **how)
    except httpx2.HTTPError as error:
        raise NotReachable(f"{type(error).__name__}: {error}") from error


def _json(response: httpx2.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
