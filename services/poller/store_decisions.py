"""Decides what follows from an attempt to store the outputs of a result. The functions have no side effects.

Outputs are stored independently: the stored ones are kept, and the others are tried again until the deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from libs.common.catalog import Provider, Retry
from libs.common.database.records import Json
from libs.common.database.records_tasks import ClaimedResult, StoreOutcome
from libs.common.database.states import State
from libs.common.errors import ErrorCode, GenerationError
from libs.common.retry import wait_seconds
from services.poller.decisions import refuses_credentials

# For how long a result waits for a catalog that has its provider.
_FORGOTTEN_SECONDS = 3_600.0
_UNKNOWN_PROVIDERS_RETRY = Retry()
# For how long a result is kept past its deadline while the provider refuses our credentials for it.
_REFUSED_SECONDS = 86_400.0
_RARELY_SECONDS = 300.0
_LONGEST_SECONDS = 3_600.0
_PATIENCE_SECONDS = 600.0
_SHARE_OF_WAITING = 0.1
_SHORTEST_SECONDS = 0.1


def is_last_try(result: ClaimedResult, provider: Provider | None) -> bool:
    """Whether the deadline of a claimed result has passed, so that this attempt is the last one."""
    return _seconds_left(result, provider) <= 0


def sources_after(sources: Sequence[Json], outputs: Sequence[Json | GenerationError]) -> list[Json]:
    """The sources for the next attempt: a stored output takes the place of its URL."""
    return [
        source if isinstance(output, GenerationError) else {"type": source["type"], "stored": output}
        for source, output in zip(sources, outputs, strict=True)
    ]


def with_fresh(sources: Sequence[Json], fresh: Sequence[Json]) -> list[Json] | None:
    """The sources with the URLs that a new check of the task names, but for outputs that are stored.

    Returns None where the check names too few to tell which output is which, or none.
    """
    if not any("stored" in source for source in sources):
        return list(fresh) or None
    if len(fresh) < len(sources):
        return None
    merged = [old if "stored" in old else new for old, new in zip(sources, fresh, strict=False)]
    return merged + list(fresh[len(sources) :])


def after_try(
    result: ClaimedResult, outputs: Sequence[Json | GenerationError], provider: Provider | None
) -> StoreOutcome:
    """What follows from an attempt to store all outputs.

    While a missing output may still be stored, the result is tried again. After that the generation succeeds with the
    stored outputs, in their order, or fails if there are none.

    Args:
        result: the claimed result.
        outputs: for each source the stored output as the row keeps it, or the error.
        provider: the account; None where the catalog has dropped it.
    """
    sources = list(zip(result.sources, outputs, strict=True))
    stored = [output for output in outputs if not isinstance(output, GenerationError)]
    is_taken = any(
        source.get("needs_credentials") and not isinstance(output, GenerationError) for source, output in sources
    )
    failures = [
        (output, after_failure(replace(result, sources=[source]), output, provider))
        for source, output in sources
        if isinstance(output, GenerationError)
    ]
    again = [(error, outcome) for error, outcome in failures if outcome.state is State.STORING]
    if again:
        # The error of the row says whether our credentials were refused at the last attempt.
        outcome = next((outcome for error, outcome in again if refuses_credentials(error)), again[0][1])
        delay_seconds = min(outcome.delay_seconds for _, outcome in again)
        kept = sources_after(result.sources, outputs) if stored else None
        outcome = replace(outcome, delay_seconds=delay_seconds, sources=kept)
    elif stored or not failures:
        outcome = StoreOutcome(result.id, result.lease_token, State.SUCCESS, outputs=stored)
    else:
        outcome = failures[0][1]
    refused_by = next((failed.refused_by for _, failed in failures if failed.refused_by), None)
    taken_by = result.provider_id if is_taken else None
    return replace(outcome, refused_by=None if taken_by else refused_by, taken_by=taken_by)


def after_failure(result: ClaimedResult, error: GenerationError, provider: Provider | None) -> StoreOutcome:
    """What follows from an output that could not be read or stored: it is tried again until its deadline.

    The deadline is the later one of the task's and `result_seconds` after the provider said that the result is ready.
    While the provider refuses our credentials for it, the deadline is up to a day later. Spooled outputs have
    no deadline.

    Args:
        result: the claimed result, with this output's source alone.
        error: why it failed.
        provider: the account; None where the catalog has dropped it.
    """
    seconds_left = _seconds_left(result, provider)
    is_refused = result.needs_credentials and refuses_credentials(error)
    if is_refused:
        seconds_left = max(seconds_left, _kept_seconds(provider) + _REFUSED_SECONDS - result.waiting_seconds)
    spooled = any("spooled" in source for source in result.sources) and error.is_retryable
    # If the account has accepted our credentials since the last refusal, this one concerns the result alone.
    is_its_own = result.was_refused and not result.is_paused
    refused_by = result.provider_id if is_refused and not is_its_own else None
    if seconds_left <= 0 and not spooled:
        told = _of_provider(error).to_json()
        return StoreOutcome(result.id, result.lease_token, State.FAILED, error=told, refused_by=refused_by)
    delay = _delay_seconds(result, error, provider)
    return StoreOutcome(
        result.id,
        result.lease_token,
        State.STORING,
        error=error.to_json(),
        delay_seconds=delay if spooled else max(_SHORTEST_SECONDS, min(delay, seconds_left)),
        refused_by=refused_by,
    )


def _kept_seconds(provider: Provider | None) -> float:
    return provider.storage.result_seconds if provider else _FORGOTTEN_SECONDS


def _seconds_left(result: ClaimedResult, provider: Provider | None) -> float:
    """Until the deadline, in seconds; 0 or less once it has passed."""
    return max(_kept_seconds(provider) - result.waiting_seconds, result.task_seconds_left or 0.0)


def _delay_seconds(result: ClaimedResult, error: GenerationError, provider: Provider | None) -> float:
    """The wait until the next attempt, in seconds. A host that has failed for long is asked rarely."""
    policy = provider.retry if provider else _UNKNOWN_PROVIDERS_RETRY
    delay = wait_seconds(policy, result.store_attempts, at_least_seconds=error.retry_after_seconds)
    if error.code is ErrorCode.S3_UPLOAD_FAILED:
        return delay
    if error.code is ErrorCode.INVALID_REQUEST or "limit_bytes" in error.details:
        # A refused address and a file that is too large seldom change.
        delay = max(delay, _RARELY_SECONDS)
    late_seconds = result.waiting_seconds - _PATIENCE_SECONDS
    return max(delay, min(_LONGEST_SECONDS, late_seconds * _SHARE_OF_WAITING))


def _of_provider(error: GenerationError) -> GenerationError:
    """The error of a URL that may not be fetched: the provider named it, and not the caller."""
    if error.code is not ErrorCode.INVALID_REQUEST:
        return error
    message = f"The provider names a URL of the result that cannot be fetched: {error.message}"
    return GenerationError(ErrorCode.PROVIDER_ERROR, message, error.details)
