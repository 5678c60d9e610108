"""When a callback comes again, and what it is signed with."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from libs.common.api_keys import callback_secret, hash_of, new_key, prefix_of
from libs.common.database.records_edge import ClaimedCallback
from libs.common.retry import wait_seconds
from services.poller.callbacks import RETRY, signed_headers

SECRET = "x" * 32
CALLBACK = ClaimedCallback(
    "cb_1_2", "gen_1", "key_1", "generation.success", "http://a/", 1, 1, datetime.now(UTC), "req_1", "flux-pro", {},
    None, None, None, None,
)  # fmt: skip


@given(body=st.text(st.characters(codec="utf-8"), max_size=50))
def test_the_public_library_believes_what_is_signed_and_nothing_else(body: str) -> None:
    headers = signed_headers(CALLBACK, f'"{body}"'.encode(), secret=SECRET, now=time.time())
    believing = Webhook(callback_secret("key_1", SECRET))
    believing.verify("[]", signed_headers(CALLBACK, b"[]", secret=SECRET, now=time.time()))
    with pytest.raises(WebhookVerificationError):
        believing.verify("[]", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(callback_secret("key_2", SECRET)).verify(f'"{body}"', headers)


def test_an_old_one_is_not_believed() -> None:
    headers = signed_headers(CALLBACK, b"[]", secret=SECRET, now=time.time() - 3_600)
    with pytest.raises(WebhookVerificationError):
        Webhook(callback_secret("key_1", SECRET)).verify("[]", headers)


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 5), (2, 10), (3, 20), (4, 40), (10, 2_560), (11, 3_600), (1_000, 3_600)]
)
def test_waits_grow_to_an_hour(attempts: int, seconds: float) -> None:
    assert wait_seconds(RETRY, attempts, at_least_seconds=None, chance=0.5) == seconds


def test_keys_differ_and_their_hash_needs_the_secret() -> None:
    first, second = new_key(), new_key()
    assert first.key != second.key
    assert (prefix_of(first.key), len(first.prefix)) == (first.prefix, 12)
    assert hash_of(first.key, SECRET) != hash_of(first.key, "y" * 32)
