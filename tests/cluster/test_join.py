"""The one public port: who gets in, what there is behind it, and what a stranger or a man in the middle gets."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from cluster import box_client
from cluster.box.identity import Identity, NotYours
from cluster.box_client import Address, BoxClient, NotAdmitted, NotReachable
from cluster.errors import BoxFailed
from cluster.join import controller_proof
from cluster.vault import Vault
from tests.cluster.fake_boxes import Box, ScriptedEngine

NAME = "farthing-test-0-abc.farthing.internal"
LABEL = "farthing:test:0:abc"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "vault")
    made.prepare("test")
    return made


@pytest.fixture
def box(vault: Vault) -> Iterator[Box]:
    running = Box({"FARTHING_SERVER_NAME": NAME, "FARTHING_JOIN_TOKEN": vault.new_join_token(LABEL)}, ScriptedEngine())
    yield running
    running.close()


@pytest.fixture
def address(box: Box) -> Address:
    return Address("127.0.0.1", box.port, NAME)


def joined(vault: Vault, address: Address) -> str:
    token = vault.join_token(LABEL)
    greeted = box_client.hello(address, token)
    key = vault.new_key(LABEL)
    box_client.join(address, token, greeted, key, vault.certify(greeted.csr, NAME, "127.0.0.1", 30))
    return key


def test_a_box_joins_once_and_serves_whoever_has_its_key(vault: Vault, address: Address) -> None:
    key = joined(vault, address)
    client = BoxClient(address, vault.ca_file, key)
    assert client.status().ready
    assert client.measure("m", 3, 10) > 0
    with pytest.raises(NotAdmitted):
        box_client.hello(address, vault.join_token(LABEL))


def test_the_gateway_verifies_the_box_by_its_address(vault: Vault, address: Address) -> None:
    """As a plain HTTPS client with `ca_file` does: no name of ours is asked for."""
    key = joined(vault, address)
    context = ssl.create_default_context(cafile=str(vault.ca_file))
    answer = httpx2.post(
        f"{address.url}/v1/chat/completions",
        verify=context,
        headers={"authorization": f"Bearer {key}"},
        json={"max_tokens": 7},
        trust_env=False,
    )
    assert answer.json()["usage"]["completion_tokens"] == 7


def test_another_box_at_the_address_is_not_taken_for_ours(vault: Vault, address: Address) -> None:
    with pytest.raises(BoxFailed, match="not our box"):
        box_client.hello(address, "another-token")


def test_a_proof_for_another_certificate_does_not_join(vault: Vault, tmp_path: Path) -> None:
    """A man in the middle has to show a certificate of his own, and the proof is bound to that one."""
    identity = Identity(tmp_path / "box", NAME, "token")
    body = b'{"key": "k", "certificate": "c"}'
    with pytest.raises(NotYours):
        identity.join(body, controller_proof("token", b"the middle's certificate", body))
    assert not identity.joined


def test_the_controller_does_not_talk_to_a_changed_certificate(vault: Vault, address: Address) -> None:
    greeted = box_client.hello(address, vault.join_token(LABEL))
    joined(vault, address)  # from here on the port shows another certificate
    with pytest.raises(NotReachable):
        box_client.join(address, vault.join_token(LABEL), greeted, "k" * 43, "c")


@pytest.mark.parametrize("path", ["/v1/models", "/load", "/health", "/farthing/status"])
def test_no_key_no_answer(vault: Vault, address: Address, path: str) -> None:
    joined(vault, address)
    context = ssl.create_default_context(cafile=str(vault.ca_file))
    for given in ({}, {"authorization": "Bearer x"}, {"authorization": "Bearer é"}, {"authorization": "Bearer"}):
        headers = {name: value.encode() for name, value in given.items()}
        assert httpx2.get(address.url + path, verify=context, headers=headers, trust_env=False).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/invocations",
        "/pause",
        "/update_weights",
        "/score",
        "/v1/embeddings",
        "/docs",
        "/openapi.json",
        "/v1/../metrics",
        "/v1/chat/completions/",
        "//metrics",
    ],
)
def test_what_is_not_listed_does_not_exist(vault: Vault, box: Box, address: Address, path: str) -> None:
    key = joined(vault, address)
    client = BoxClient(address, vault.ca_file, key)
    for verb in ("GET", "POST"):
        assert client._call(verb, path).status in (404, 405, 307)
    assert box.engine.answered == 0


def test_the_port_speaks_tls_only(box: Box) -> None:
    with socket.create_connection(("127.0.0.1", box.port), 5) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        plain.settimeout(5)
        assert b"HTTP/1" not in plain.recv(1024)


def test_a_rotated_key_takes_over_and_the_old_one_fades(vault: Vault, box: Box, address: Address) -> None:
    old = joined(vault, address)
    new = vault.next_key(LABEL)
    client = BoxClient(address, vault.ca_file, old)
    csr = client.status().csr
    client.rotate(new, vault.certify(csr, NAME, "127.0.0.1", 30))
    assert client.status().ready  # requests under way are not cut off
    client = BoxClient(address, vault.ca_file, new)
    assert client.status().ready
    box.identity._old = (old, 0.0)  # two minutes later
    client = BoxClient(address, vault.ca_file, old)
    with pytest.raises(NotAdmitted):
        client.status()


def test_a_certificate_for_another_key_is_refused(vault: Vault, address: Address, tmp_path: Path) -> None:
    key = joined(vault, address)
    foreign = Identity(tmp_path / "other", NAME, "t").csr()
    client = BoxClient(address, vault.ca_file, key)
    with pytest.raises(BoxFailed):
        client.rotate("k" * 43, vault.certify(foreign, NAME, "127.0.0.1", 30))


def test_a_box_of_another_cluster_is_not_believed(vault: Vault, address: Address, tmp_path: Path) -> None:
    key = joined(vault, address)
    other = Vault(tmp_path / "other")
    other.prepare("other")
    client = BoxClient(address, other.ca_file, key)
    with pytest.raises(NotReachable):
        client.status()


def test_a_restarted_container_is_the_same_box(vault: Vault, tmp_path: Path) -> None:
    first = Identity(tmp_path / "box", NAME, "token")
    body_csr = first.csr()
    certificate = vault.certify(body_csr, NAME, "127.0.0.1", 30)
    body = json.dumps({"key": "k" * 43, "certificate": certificate}).encode()
    first.join(body, controller_proof("token", first._der(), body))
    again = Identity(tmp_path / "box", NAME, "token")
    assert again.joined and again.admits("Bearer " + "k" * 43)
    with pytest.raises(NotYours):  # the token is still in the environment, and of no use
        again.hello("nonce")


def test_only_the_controllers_own_calls_hold_the_dead_mans_switch(vault: Vault, box: Box, address: Address) -> None:
    key = joined(vault, address)
    box.heartbeat.unlink()
    client = BoxClient(address, vault.ca_file, key)
    client._call("POST", "/v1/chat/completions", json={})
    assert not box.heartbeat.exists()
    client.status()
    assert box.heartbeat.read_text().isdigit()


def test_secrets_are_private_files(vault: Vault, address: Address) -> None:
    joined(vault, address)
    vault.drop_join_token(LABEL)
    modes = {p.name: p.stat().st_mode & 0o777 for p in vault.ca_file.parent.rglob("*") if p.is_file()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "farthing-test-0-abc.key": 0o600}
