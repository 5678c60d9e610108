"""What follows when a result could not be stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from libs.common.catalog import Provider
from libs.common.database.records_tasks import ClaimedResult
from libs.common.database.states import State
from libs.common.errors import ErrorCode, GenerationError
from services.poller.store_decisions import after_failure
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
GONE = GenerationError(ErrorCode.PROVIDER_ERROR, "gone", {"http_status": 404}, is_retryable=False)
REFUSED = GenerationError(ErrorCode.PROVIDER_ERROR, "no", {"http_status": 401}, is_retryable=False)


@pytest.mark.parametrize(
    ("error", "waiting_seconds", "provider", "state"),
    [
        pytest.param(AWAY, 10, PROVIDER, State.STORING, id="storage is away"),
        pytest.param(AWAY, 601, PROVIDER, State.FAILED, id="storage is away for longer than the provider keeps it"),
        pytest.param(KEYLESS, 10, PROVIDER, State.STORING, id="a key that can be mended"),
        pytest.param(GONE, 10, PROVIDER, State.STORING, id="one bad answer of its host"),
        pytest.param(GONE, 601, PROVIDER, State.FAILED, id="bad answers until its deadline"),
        pytest.param(AWAY, 601, None, State.STORING, id="the catalog has dropped the provider"),
        pytest.param(AWAY, 3_601, None, State.FAILED, id="the catalog has dropped the provider for good"),
    ],
)
def test_a_result_is_tried_again_until_its_deadline(
    error: GenerationError, *, waiting_seconds: float, provider: Provider | None, state: State
) -> None:
    outcome = after_failure(replace(RESULT, waiting_seconds=waiting_seconds), error, provider)
    assert outcome.state is state
    assert outcome.error is not None
    assert (outcome.delay_seconds > 0) is (state is State.STORING)


@pytest.mark.parametrize(("seconds_left", "state"), [(60.0, State.STORING), (-1.0, State.FAILED)])
def test_a_result_may_be_read_until_the_deadline_of_its_task(seconds_left: float, state: State) -> None:
    result = replace(RESULT, waiting_seconds=601, task_id="t", task_seconds_left=seconds_left)
    assert after_failure(result, GONE, PROVIDER).state is state


@pytest.mark.parametrize(("waiting_seconds", "state"), [(86_000, State.STORING), (87_001, State.FAILED)])
def test_a_result_that_is_refused_to_our_key_is_kept_for_a_day_longer(waiting_seconds: float, state: State) -> None:
    sources = [{"type": "video", "url": "https://api.example.com/1", "needs_credentials": True}]
    outcome = after_failure(replace(RESULT, sources=sources, waiting_seconds=waiting_seconds), REFUSED, PROVIDER)
    assert (outcome.state, outcome.refused_by) == (state, "bfl")
    theirs = after_failure(replace(RESULT, waiting_seconds=waiting_seconds), REFUSED, PROVIDER)
    assert (theirs.state, theirs.refused_by) == (State.FAILED, None)


def test_what_waits_in_our_database_is_kept_while_storage_is_away() -> None:
    spooled = replace(RESULT, sources=[{"type": "image", "spooled": 0}], waiting_seconds=10_000_000)
    assert after_failure(spooled, AWAY, PROVIDER).state is State.STORING
    assert after_failure(spooled, GONE, PROVIDER).state is State.FAILED


@pytest.mark.parametrize(
    "error",
    [
        GenerationError(ErrorCode.INVALID_REQUEST, "The URL is refused."),
        GenerationError(ErrorCode.PROVIDER_ERROR, "too large", {"limit_bytes": 1}),
    ],
    ids=["refused address", "too large"],
)
def test_what_changes_rarely_is_tried_rarely(error: GenerationError) -> None:
    assert after_failure(RESULT, error, PROVIDER).delay_seconds == 300
