"""API keys: how they are made, told apart and kept. The key itself is shown once and is nowhere afterwards."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import NamedTuple

from libs.common.settings import Settings

PREFIX_LENGTH = 12
KEY_LIMIT = 200


class NewKey(NamedTuple):
    """A key about to be shown to whoever will use it."""

    key: str
    prefix: str


def new_key() -> NewKey:
    """A key of 256 bits, such as `drk_…` and 43 characters."""
    key = f"drk_{secrets.token_urlsafe(32)}"
    return NewKey(key, prefix_of(key))


def prefix_of(key: str) -> str:
    """The beginning by which a key is found and people tell it apart."""
    return key[:PREFIX_LENGTH]


def key_secret(settings: Settings) -> str:
    """What keys are hashed with. SystemExit where it is not set."""
    if settings.key_secret is None:
        raise SystemExit(
            "The gateway and the poller need DARKROOM_KEY_SECRET: 32 characters or more, the same for all and "
            "for good. API keys are hashed and callbacks signed with it."
        )
    return settings.key_secret.get_secret_value()


def hash_of(key: str, secret: str) -> bytes:
    """What is kept of a key: HMAC-SHA-256 (RFC 2104), so that a stolen table alone opens nothing."""
    return hmac.new(secret.encode(), key.encode(), hashlib.sha256).digest()


def callback_secret(key_id: str, secret: str) -> str:
    """The secret that signs the callbacks of a key's generations, as Standard Webhooks writes it: `whsec_` and base64.

    It follows from the key's id, so that it is kept nowhere and every replica knows it.
    """
    return f"whsec_{base64.b64encode(callback_secret_bytes(key_id, secret)).decode()}"


def callback_secret_bytes(key_id: str, secret: str) -> bytes:
    """The same as bytes: what an HMAC takes."""
    return hmac.new(secret.encode(), f"callbacks of {key_id}".encode(), hashlib.sha256).digest()
