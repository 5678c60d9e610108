"""Webhooks are believed if they are signed and fresh, and never crash."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from libs.common.adapters.base import Adapter
from libs.common.adapters.http import ProviderHttp
from libs.common.adapters.registry import adapters
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError

NOW = 1_800_000_000.0
_KEY = Ed25519PrivateKey.generate()
_RAW = b"a shared secret of some length"
_SHARED = base64.b64encode(_RAW).decode()
_JWKS = json.dumps(
    {"keys": [{"x": base64.urlsafe_b64encode(_KEY.public_key().public_bytes_raw()).decode().rstrip("=")}]}
)
Sign = Callable[[bytes, float], dict[str, str]]


def _standard(prefix: str, version: str) -> Sign:
    def sign(body: bytes, at: float) -> dict[str, str]:
        made = hmac.new(_RAW, f"msg_1.{at:.0f}.".encode() + body, hashlib.sha256).digest()
        return {
            f"{prefix}webhook-id": "msg_1",
            f"{prefix}webhook-timestamp": f"{at:.0f}",
            f"{prefix}webhook-signature": version + base64.b64encode(made).decode(),
        }

    return sign


def _bfl(body: bytes, _: float) -> dict[str, str]:
    return {"x-bfl-signature": hmac.new(_SHARED.encode(), body, hashlib.sha256).hexdigest()}


def _fal(body: bytes, at: float) -> dict[str, str]:
    message = f"req_1\nuser_1\n{at:.0f}\n{hashlib.sha256(body).hexdigest()}".encode()
    words = {
        "request-id": "req_1",
        "user-id": "user_1",
        "timestamp": f"{at:.0f}",
        "signature": _KEY.sign(message).hex(),
    }
    return {f"x-fal-webhook-{name}": value for name, value in words.items()}


# By adapter: how it is signed, the secret, a body, and what follows from it.
SIGNED: dict[str, tuple[Sign, str, dict[str, Any], tuple[str, TaskState | None]]] = {
    "flux": (
        _bfl,
        _SHARED,
        {"task_id": "t", "status": "Ready", "result": {"sample": "https://a/1"}},
        ("t", TaskState.SUCCESS),
    ),
    "pollo": (
        _standard("x-", ""),
        _SHARED,
        {"taskId": "t", "generations": [{"status": "succeed", "url": "https://a/1"}, {"status": "failed"}]},
        ("t", TaskState.SUCCESS),
    ),
    "replicate": (
        _standard("", "v1,"),
        f"whsec_{_SHARED}",
        {"id": "t", "status": "failed", "error": "NSFW content"},
        ("t", TaskState.FAILED),
    ),
    "fal": (
        _fal,
        _JWKS,
        {"request_id": "t", "status": "OK", "payload": {"images": [{"url": "https://a/1"}]}},
        ("t", TaskState.SUCCESS),
    ),
    "openai_video": (_standard("", "v1,"), _SHARED, {"type": "video.completed", "data": {"id": "t"}}, ("t", None)),
}
TIMED = sorted(set(SIGNED) - {"flux"})


def _adapter(name: str) -> Adapter:
    # Webhooks are read without a connection.
    return adapters()[name](cast("ProviderHttp", None))


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_a_good_signature_is_believed(name: str) -> None:
    sign, secret, content, (task_id, state) = SIGNED[name]
    body = json.dumps(content).encode()
    report = _adapter(name).parse_webhook(sign(body, NOW), body, secret=secret, now=NOW + 10)
    assert report.task_id == task_id
    assert (report.status.state if report.status else None) is state


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_a_body_that_was_changed_is_not_believed(name: str) -> None:
    sign, secret, content, _ = SIGNED[name]
    body = json.dumps(content).encode()
    with pytest.raises(GenerationError) as caught:
        _adapter(name).parse_webhook(sign(body, NOW), body + b" ", secret=secret, now=NOW)
    assert caught.value.code is ErrorCode.AUTHENTICATION_FAILED


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_without_a_signature_nothing_is_believed(name: str) -> None:
    _, secret, content, _ = SIGNED[name]
    with pytest.raises(GenerationError) as caught:
        _adapter(name).parse_webhook({}, json.dumps(content).encode(), secret=secret, now=NOW)
    assert caught.value.code is ErrorCode.AUTHENTICATION_FAILED


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("late", [301, 86_400, -301])
def test_a_replayed_webhook_is_not_believed(name: str, late: float) -> None:
    sign, secret, content, _ = SIGNED[name]
    body = json.dumps(content).encode()
    with pytest.raises(GenerationError) as caught:
        _adapter(name).parse_webhook(sign(body, NOW), body, secret=secret, now=NOW + late)
    assert caught.value.code is ErrorCode.AUTHENTICATION_FAILED


@pytest.mark.parametrize("name", sorted(SIGNED))
@pytest.mark.parametrize("body", [b"", b"[", b"[]", b"{}", b'{"id": 3}', b"\xff\xfe", b"[" * 5_000])
def test_a_signed_body_that_cannot_be_read_is_an_error(name: str, body: bytes) -> None:
    sign, secret, _, _ = SIGNED[name]
    with pytest.raises(GenerationError) as caught:
        _adapter(name).parse_webhook(sign(body, NOW), body, secret=secret, now=NOW)
    assert caught.value.code is ErrorCode.PROVIDER_ERROR


@pytest.mark.parametrize(
    "headers", [{"webhook-timestamp": "nan"}, {"webhook-timestamp": "x"}, {"webhook-signature": "v1,?"}]
)
def test_headers_that_cannot_be_read_are_not_believed(headers: dict[str, str]) -> None:
    with pytest.raises(GenerationError):
        _adapter("replicate").parse_webhook(headers, b"{}", secret=_SHARED, now=NOW)


def test_bfls_echoed_secret_is_believed_too() -> None:
    body = b'{"id": "t", "status": "Error"}'
    report = _adapter("flux").parse_webhook({"x-webhook-secret": _SHARED}, body, secret=_SHARED, now=NOW)
    assert report.task_id == "t"


@pytest.mark.parametrize("name", ["kling", "kling_relay"])
def test_an_unsigned_webhook_is_only_a_hint(name: str) -> None:
    body = b'{"code": 0, "data": {"task_id": "t", "task_status": "succeed"}}'
    report = _adapter(name).parse_webhook({}, body, secret="", now=NOW)
    assert (report.task_id, report.status) == ("t", None)


def test_a_vendor_without_webhooks_says_so() -> None:
    with pytest.raises(GenerationError, match="sends no webhooks"):
        _adapter("tuzi_openai").parse_webhook({}, b"", secret="", now=NOW)
