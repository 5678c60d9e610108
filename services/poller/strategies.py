"""How long to wait before the next poll: pure arithmetic."""

from __future__ import annotations

import random

from libs.common.database.records import Strategy

FACTOR = 1.5
LONGEST_SECONDS = 300.0
JITTER = 0.1
_SHORTEST_SECONDS = 0.1


def delay_seconds(
    strategy: Strategy,
    interval_ms: int,
    polls: int,
    *,
    seconds_left: float,
    jitter: float = JITTER,
    chance: float | None = None,
) -> float:
    """The wait after the `polls`-th poll, in seconds; never past the deadline, so that the last look is on time.

    Args:
        strategy: `fixed`: the interval each time; `exponential`: 1.5 times the wait before, at most 5 minutes.
        interval_ms: the first wait.
        polls: 1 after the first.
        seconds_left: until the deadline.
        jitter: by what share waits are spread either way, so that tasks handed in together drift apart.
        chance: 0 to 1; None: drawn.
    """
    delay = interval_ms / 1_000
    if strategy == "exponential":
        # The exponent is bounded: 1.5 to the 40th is above any interval's way to the cap.
        delay = max(delay, min(LONGEST_SECONDS, delay * FACTOR ** min(polls, 40)))
    drawn = random.random() if chance is None else chance
    spread = min(LONGEST_SECONDS, delay * (1 - jitter + 2 * jitter * drawn))
    return max(_SHORTEST_SECONDS, min(spread, seconds_left))
