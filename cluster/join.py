"""How a box and its controller prove to each other that they are meant: HMACs of the join token over the certificate.

The box's first certificate is self-signed, so TLS alone proves nothing. Each side shows that it knows the token *for
this certificate*: whoever sits in between holds another certificate, and the proof does not fit. Used by both ends.
"""

from __future__ import annotations

import hashlib
import hmac


def box_proof(token: str, certificate_der: bytes, nonce: str, csr_pem: str) -> str:
    return _proof(token, "box", certificate_der, nonce.encode(), csr_pem.encode())


def controller_proof(token: str, certificate_der: bytes, body: bytes) -> str:
    return _proof(token, "controller", certificate_der, body)


def equal(left: str, right: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


def _proof(token: str, who: str, certificate_der: bytes, *parts: bytes) -> str:
    said = b"|".join(hashlib.sha256(part).digest() for part in (who.encode(), certificate_der, *parts))
    return hmac.new(token.encode(), said, hashlib.sha256).hexdigest()
