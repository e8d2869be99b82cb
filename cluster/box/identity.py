"""A box's own secrets: its private key and certificate, the bearer key it takes, and the join token while it is unused.

Everything lies in one folder of mode 0700 on the box's disk, so a restarted container is the same box. The private key
is made here and never leaves. Knows no HTTP.
"""

from __future__ import annotations

import datetime
import json
import ssl
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.join import box_proof, controller_proof, equal
from cluster.state import write_private

OLD_KEY_S = 120.0  # after a rotation the former key is still taken, for requests under way


class NotYours(Exception):
    """The other side could not show that it knows the token or the key."""


class Identity:
    def __init__(self, folder: Path, server_name: str, join_token: str) -> None:
        self._folder, self._name, self._token = folder, server_name, join_token
        self._key_file = folder / "key.json"
        self.certificate_file, self.private_file = folder / "tls.pem", folder / "tls.key"
        self._old: tuple[str, float] = ("", 0.0)
        if not self.certificate_file.exists():
            self._make()
        self._bearer = str(json.loads(self._key_file.read_text())["key"]) if self._key_file.exists() else ""

    @property
    def joined(self) -> bool:
        return bool(self._bearer)

    def load_into(self, context: ssl.SSLContext) -> None:
        """New connections of a running server get the present certificate."""
        context.load_cert_chain(self.certificate_file, self.private_file)

    def hello(self, nonce: str) -> dict[str, str]:
        """Raises NotYours once the token is used up."""
        if self.joined or not self._token:
            raise NotYours
        csr = self.csr()
        return {"csr": csr, "proof": box_proof(self._token, self._der(), nonce, csr)}

    def join(self, body: bytes, proof: str) -> None:
        """Take certificate and key from whoever knows the token; once. Raises NotYours, ValueError."""
        if self.joined or not self._token:
            raise NotYours
        if not equal(proof, controller_proof(self._token, self._der(), body)):
            raise NotYours
        self._take(json.loads(body))

    def rotate(self, body: bytes) -> None:
        """Another key, another certificate; the caller has shown the present key. Raises ValueError."""
        self._old = (self._bearer, time.monotonic() + OLD_KEY_S)
        self._take(json.loads(body))

    def admits(self, authorization: str) -> bool:
        old, until_s = self._old
        keys = [self._bearer, *([old] if time.monotonic() < until_s else [])]
        given = authorization.removeprefix("Bearer ")
        return any(bool(key) & equal(given, key) for key in keys)

    def _take(self, given: dict[str, str]) -> None:
        try:
            key, certificate = given["key"], given["certificate"].encode()
            public = x509.load_pem_x509_certificate(certificate).public_key()
        except (KeyError, AttributeError) as error:
            raise ValueError("key and certificate are wanted") from error
        if len(key) < 32 or public != self._private_key().public_key():
            raise ValueError("the key is too short, or the certificate is not for this box's private key")
        write_private(self.certificate_file, certificate)
        write_private(self._key_file, json.dumps({"key": key}).encode())  # last: from here on the token is used up
        self._bearer = key

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        now = datetime.datetime.now(datetime.UTC)
        own = (
            x509.CertificateBuilder()
            .subject_name(self._subject())
            .issuer_name(self._subject())
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(self._name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(self.private_file, private)
        write_private(self.certificate_file, own.public_bytes(serialization.Encoding.PEM))

    def csr(self) -> str:
        """A certificate request for this box's key; nothing secret."""
        request = x509.CertificateSigningRequestBuilder().subject_name(self._subject())
        return request.sign(self._private_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name[:64])])

    def _private_key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.private_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # made by `_make`
        return key

    def _der(self) -> bytes:
        certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        return certificate.public_bytes(serialization.Encoding.DER)
