"""When to try again: decisions as values. Whoever asks for one writes it into a row or waits for it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from libs.common.catalog import Retry
from libs.common.errors import ErrorCode, GenerationError

T = TypeVar("T")
JITTER = 0.25


def wait_seconds(policy: Retry, failures: int, *, at_least_seconds: float | None, chance: float | None = None) -> float:
    """The wait after the `failures`-th failure: doubled each time, bounded, and spread by ±25 %.

    Args:
        policy: the provider account's.
        failures: 1 after the first.
        at_least_seconds: what the provider asked for, if it did.
        chance: 0 to 1; None: drawn.
    """
    doubled = min(policy.longest_wait_seconds, policy.first_wait_seconds * 2.0 ** min(failures - 1, 30))
    drawn = random.random() if chance is None else chance
    return max(doubled * (1 - JITTER + 2 * JITTER * drawn), at_least_seconds or 0.0)


def _database_away(error: BaseException) -> bool:
    return isinstance(error, GenerationError) and error.code is ErrorCode.SERVICE_UNAVAILABLE


async def until_database_answers(work: Callable[[], Awaitable[T]]) -> T:
    """Do `work` again until the database takes it; for outcomes that exist nowhere else.

    Ends by cancellation alone where the database stays away; whatever else `work` raises comes through.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception(_database_away), wait=wait_random_exponential(multiplier=0.1, max=2.0), reraise=True
    ):
        with attempt:
            return await work()
    raise AssertionError("tenacity tries until it succeeds")
