"""How vendors sign their webhooks; written apart from the code that checks it, from the same public texts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import uuid

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def standard_signature(body: bytes, secret: str, *, prefix: str = "", version: str = "") -> dict[str, str]:
    """The headers of Standard Webhooks (standardwebhooks.com). `secret` in base64."""
    identifier, timestamp = f"msg_{uuid.uuid4().hex}", str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    made = hmac.new(key, b".".join([identifier.encode(), timestamp.encode(), body]), hashlib.sha256).digest()
    return {
        f"{prefix}webhook-id": identifier,
        f"{prefix}webhook-timestamp": timestamp,
        f"{prefix}webhook-signature": version + base64.b64encode(made).decode(),
    }


class FalSigner:
    """fal's Ed25519 signatures. The key follows from `seed`, so that it survives a restart."""

    def __init__(self, seed: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())

    @property
    def public(self) -> str:
        """The public key as a JWK has it (RFC 8037)."""
        return base64.urlsafe_b64encode(self._key.public_key().public_bytes_raw()).decode().rstrip("=")

    def headers(self, request_id: str, body: bytes) -> dict[str, str]:
        """The headers of a webhook about a request."""
        words = {"request-id": request_id, "user-id": "simulated", "timestamp": str(int(time.time()))}
        message = "\n".join([*words.values(), hashlib.sha256(body).hexdigest()]).encode()
        words["signature"] = self._key.sign(message).hex()
        return {f"x-fal-webhook-{name}": value for name, value in words.items()}
