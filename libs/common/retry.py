"""When to try again.

A wait that outlives the process is a value, written into a row (`wait_seconds`). A call that can be repeated on the
spot, because a second one costs nothing, is repeated by tenacity with the same waits (`repeat`).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from libs.common.catalog import Retry
from libs.common.errors import DATABASE_FAILURES, GenerationError, StatementEnded

T = TypeVar("T")
JITTER = 0.25
REFUSALS_LIMIT = 20
"""How often a statement that the database refuses is repeated, where the caller gives no limit."""


def wait_seconds(policy: Retry, failures: int, *, at_least_seconds: float | None, chance: float | None = None) -> float:
    """The wait after the `failures`-th failure: doubled each time, bounded, and spread by ±25 %.

    Args:
        policy: the provider account's.
        failures: 1 after the first.
        at_least_seconds: what the provider asked for, if it did; obeyed as far as the policy goes.
        chance: 0 to 1; None: drawn.
    """
    doubled = min(policy.longest_wait_seconds, policy.first_wait_seconds * 2.0 ** min(failures - 1, 30))
    drawn = random.random() if chance is None else chance
    asked_for = min(policy.longest_retry_after_seconds, at_least_seconds or 0.0)
    return max(doubled * (1 - JITTER + 2 * JITTER * drawn), asked_for)


async def repeat(policy: Retry, call: Callable[[], Awaitable[T]]) -> T:
    """Do `call`, and again after retryable failures, as often as the policy says. Raises what the last one raised.

    For what may be done twice without harm: looking a task up, cancelling one, storing a file under its own key.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception(_is_retryable),
        stop=stop_after_attempt(policy.attempts),
        wait=lambda state: _wait_after(policy, state),
        reraise=True,
    ):
        with attempt:
            return await call()
    raise AssertionError("tenacity raises what the last attempt raised")


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, GenerationError) and error.is_retryable


def _wait_after(policy: Retry, state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_for = error.retry_after_seconds if isinstance(error, GenerationError) else None
    return wait_seconds(policy, state.attempt_number, at_least_seconds=asked_for)


async def until_database_answers(
    work: Callable[[], Awaitable[T]], *, waiting: set[object] | None = None, refusals_limit: float = REFUSALS_LIMIT
) -> T:
    """Do `work` again until the database takes it; for writes of outcomes that exist nowhere else.

    `work` is repeated without end while the database cannot be reached or the outcome of a commit is unknown, so it
    must be safe to repeat: fenced by a lease and its token. It is repeated `refusals_limit` times where the database
    answers and refuses its statement for a reason that is not in the row: a timeout, a lock, a permission.

    Args:
        work: writes, and raises what `Database.transaction` raises.
        waiting: has one entry more while `work` waits to be repeated.
        refusals_limit: how often a refused statement is repeated; `math.inf`: without a limit.

    Raises:
        StatementEnded, DBAPIError: after the last of those repeats.
        Exception: whatever else `work` raises, at once.
    """
    mark, marks = object(), set[object]() if waiting is None else waiting
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_by_database(refusals_limit)),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            before_sleep=lambda _: marks.add(mark),
            reraise=True,
        ):
            with attempt:
                return await work()
    finally:
        marks.discard(mark)
    raise AssertionError("tenacity tries until it succeeds")


def _by_database(refusals_limit: float) -> Callable[[BaseException], bool]:
    """Whether an error is the database's and worth a repeat; it counts those that have a limit."""
    ended = 0

    def is_worth_it(error: BaseException) -> bool:
        nonlocal ended
        is_rows_own = isinstance(error, IntegrityError | DataError)
        if isinstance(error, StatementEnded) or (isinstance(error, DBAPIError) and not is_rows_own):
            ended += 1
            return ended <= refusals_limit
        return isinstance(error, GenerationError) and error.code in DATABASE_FAILURES

    return is_worth_it
