"""Signatures of webhooks, as vendors make them. Each check compares in constant time and refuses what is too old."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from libs.common import VERSION
from libs.common.errors import ErrorCode, GenerationError

TOLERANCE_SECONDS = 300.0


def refuse(why: str) -> GenerationError:
    """The error for a webhook that is not believed."""
    return GenerationError(ErrorCode.AUTHENTICATION_FAILED, f"The webhook is not believed: {why}.")


def _check_age(timestamp: str, now: float) -> None:
    try:
        age = abs(now - float(timestamp))
    except ValueError as error:
        raise refuse("its timestamp is none") from error
    if not age <= TOLERANCE_SECONDS:
        raise refuse("it is too old, or from the future")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refuse("its secret or signature is not base64") from error


def standard_signature(identifier: str, timestamp: str, body: bytes, key: bytes) -> bytes:
    """What a webhook of standardwebhooks.com is signed with: HMAC-SHA256 over `id.timestamp.body`."""
    return hmac.new(key, f"{identifier}.{timestamp}.".encode() + body, hashlib.sha256).digest()


def standard_headers(identifier: str, body: bytes, key: bytes, *, now: float) -> dict[str, str]:
    """What a webhook of ours is sent with: id, time of this try in Unix seconds, signature over both and the body."""
    timestamp = str(int(now))
    signature = base64.b64encode(standard_signature(identifier, timestamp, body, key)).decode()
    return {
        "content-type": "application/json",
        "user-agent": f"Darkroom/{VERSION}",
        "webhook-id": identifier,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def standard_webhook(headers: Mapping[str, str], body: bytes, *, secret: str, now: float, prefix: str = "") -> None:
    """HMAC-SHA256 over `id.timestamp.body`, in base64. Source: standardwebhooks.com.

    Args:
        headers: by lower-case name: `webhook-id`, `webhook-timestamp`, `webhook-signature` (`v1,…`, several by spaces).
        body: as it came.
        secret: base64, with or without `whsec_` before it.
        now: Unix seconds.
        prefix: before the headers' names, for vendors that put one there.
    """
    identifier, timestamp, signatures = (
        headers.get(f"{prefix}webhook-{name}", "") for name in ("id", "timestamp", "signature")
    )
    _check_age(timestamp, now)
    key = _decoded(secret.removeprefix("whsec_"))
    wanted = standard_signature(identifier, timestamp, body, key)
    given = [_decoded(word.removeprefix("v1,")) for word in signatures.split() if word.startswith("v1,") or prefix]
    if not any(hmac.compare_digest(wanted, signature) for signature in given):
        raise refuse("its signature does not fit")


def hmac_hex(given: str, body: bytes, *, secret: str) -> None:
    """HMAC-SHA256 over the body, in hexadecimal."""
    wanted = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted.encode(), given.lower().encode()):
        raise refuse("its signature does not fit")


def ed25519(message: bytes, signature: str, *, keys: str, timestamp: str, now: float) -> None:
    """Ed25519 with one of the keys of a JWKS document (RFC 8037); `signature` in hexadecimal."""
    _check_age(timestamp, now)
    try:
        given = bytes.fromhex(signature)
        found = [key["x"] for key in json.loads(keys)["keys"]]
        public_keys = [
            Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            for text in found
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise refuse("its signature or our keys cannot be read") from error
    for key in public_keys:
        try:
            key.verify(given, message)
        except InvalidSignature:
            continue
        return
    raise refuse("its signature does not fit")
