"""The cluster's secrets on the controller: its certificate authority, and a key for each box, in 0600 files.

A box makes its own private key and sends a certificate request; only the certificate and the box's bearer key go to it.
The authority is made here and never leaves. Knows no provider and speaks to nobody.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.errors import BoxFailed
from cluster.state import write_private

AUTHORITY_DAYS = 3650
EARLIER = datetime.timedelta(days=2)  # a certificate is valid from then on, so that a clock that is behind takes it


class Vault:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca_file = folder / "ca.pem"

    # tokens and keys

    def new_join_token(self, label: str) -> str:
        return self._new(label, "join")

    def join_token(self, label: str) -> str:
        """Empty once the box has joined: the token is used up."""
        return self._read(label, "join")

    def drop_join_token(self, label: str) -> None:
        self._path(label, "join").unlink(missing_ok=True)

    def new_key(self, label: str) -> str:
        return self._new(label, "key")

    def key(self, label: str) -> str:
        return self._read(label, "key")

    def key_file(self, label: str) -> Path:
        return self._path(label, "key")

    def next_key(self, label: str) -> str:
        """The key a rotation is about to set; the same again after a crash, since the box may have taken it."""
        return self._read(label, "next") or self._new(label, "next")

    def pending_key(self, label: str) -> str:
        return self._read(label, "next")

    def commit_next(self, label: str) -> None:
        self._path(label, "next").replace(self._path(label, "key"))

    def forget(self, label: str) -> None:
        for kind in ("join", "key", "next"):
            self._path(label, kind).unlink(missing_ok=True)

    def _path(self, label: str, kind: str) -> Path:
        return self._folder / "keys" / f"{label.replace(':', '-')}.{kind}"

    def _new(self, label: str, kind: str) -> str:
        secret = secrets.token_urlsafe(32)
        write_private(self._path(label, kind), secret.encode())
        return secret

    def _read(self, label: str, kind: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._path(label, kind).read_text(encoding="utf-8").strip()
        return ""

    # certificates

    def prepare(self, cluster: str) -> None:
        """Make the authority, once. The certificate is written last: it says that its key is there."""
        if self.ca_file.exists():
            return
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"farthing cluster {cluster}")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            _builder(name, key.public_key(), AUTHORITY_DAYS)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(self._folder / "ca.key", private)
        write_private(self.ca_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)

    def certify(self, csr_pem: str, server_name: str, host: str, days: int) -> str:
        """A certificate for the box's own key, made out to its slot's name and its present address.

        Whatever name the request carries is ignored. Raises BoxFailed for a request that cannot be read.
        """
        try:
            request = x509.load_pem_x509_csr(csr_pem.encode())
            public = request.public_key()
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise BoxFailed("the box's certificate request cannot be read") from error
        if not isinstance(public, ec.EllipticCurvePublicKey) or not request.is_signature_valid:
            raise BoxFailed("the box's certificate request is not signed by an elliptic-curve key of its own")
        authority = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        key = serialization.load_pem_private_key((self._folder / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # made by `prepare`
        names: list[x509.GeneralName] = [x509.DNSName(server_name)]
        with contextlib.suppress(ValueError):
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server_name[:64])])
        certificate = (
            _builder(subject, public, days)
            .issuer_name(authority.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _builder(subject: x509.Name, public: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
    )
