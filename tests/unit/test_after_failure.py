"""What follows when a result could not be stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from libs.common.catalog import Provider
from libs.common.database.records import ClaimedResult
from libs.common.database.states import State
from libs.common.errors import ErrorCode, GenerationError
from services.poller.storing import after_failure
from tests.support.catalogs import PROVIDER

RESULT = ClaimedResult(
    id="gen_1",
    model_identifier="flux-pro",
    provider_id="bfl",
    media_type="image",
    request_id="req_1",
    sources=[{"type": "image", "url": "https://example.com/1.png"}],
    store_attempts=1,
    cost_usd=0.04,
    lease_token=1,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    released_at=datetime(2026, 1, 1, tzinfo=UTC),
    waiting_seconds=10,
)
AWAY = GenerationError(ErrorCode.S3_UPLOAD_FAILED, "away")
KEYLESS = GenerationError(ErrorCode.AUTHENTICATION_FAILED, "no key")
GONE = GenerationError(ErrorCode.PROVIDER_ERROR, "gone")


@pytest.mark.parametrize(
    ("error", "waiting_seconds", "provider", "state"),
    [
        pytest.param(AWAY, 10, PROVIDER, State.STORING, id="storage is away"),
        pytest.param(AWAY, 601, PROVIDER, State.FAILED, id="storage is away for longer than the provider keeps it"),
        pytest.param(KEYLESS, 10, PROVIDER, State.STORING, id="a key that can be mended"),
        pytest.param(GONE, 10, PROVIDER, State.FAILED, id="gone for good"),
        pytest.param(AWAY, 601, None, State.STORING, id="the catalog has dropped the provider"),
        pytest.param(AWAY, 3_601, None, State.FAILED, id="the catalog has dropped the provider for good"),
    ],
)
def test_a_result_is_tried_again_while_there_is_one(
    error: GenerationError, *, waiting_seconds: float, provider: Provider | None, state: State
) -> None:
    outcome = after_failure(replace(RESULT, waiting_seconds=waiting_seconds), error, provider)
    assert outcome.state is state
    assert outcome.error is not None
    assert (outcome.delay_seconds > 0) is (state is State.STORING)


def test_what_waits_in_our_database_is_never_given_up() -> None:
    spooled = replace(RESULT, sources=[{"type": "image", "spooled": 0}], waiting_seconds=10_000_000)
    assert after_failure(spooled, AWAY, PROVIDER).state is State.STORING
