"""Which generation answers a call of a client that repeats its calls without an idempotency key.

A first call may reach the database after its own repeat, which then has created the generation. A first call that was
received before such a repeat therefore takes that generation. Two first calls are else two generations. Where several
generations could be the one of a repeat, the choice is a guess, and nothing is paid for a second time.

Two kinds of repeats create their own generations: of a call that was refused, for it has created none, and where all
identical calls were answered a while ago, for their clients had no reason to repeat them. An answer may be lost on its
way all the same: the client then repeats its call when the timeout of a proxy, or its own, which it names, is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.common.database.records_edge import ClientCall

_ANSWERED_SECONDS = 15.0
"""For so long after its answer a generation may be that of a repeat: the answer may be lost on its way.

OpenAI's clients wait for at most 8 s before they repeat a call whose connection failed. Source: _base_client.py of
openai-python, MAX_RETRY_DELAY.
"""
_PROXY_SECONDS = 130.0
"""For so long after a call was received a proxy may answer it with an error of its own, which its client repeats.

nginx (proxy_read_timeout) and AWS' load balancers wait for 60 s by default, Cloudflare for 100 to 120 s.
"""
_LATE_SECONDS = 15.0
"""For so long after its timeout a client's repeat comes, with its wait and its connection."""
_LEFT_SECONDS = 30.0
"""For so long after its client has lost the connection a generation may be that of an uncounted repeat.

The Vercel AI SDK waits for 2 and 4 s before it repeats a call whose connection broke, tenacity and urllib3 for less.
"""
_WAIT_LIMIT_SECONDS = 60.0
_BACKOFF_SECONDS, _BACKOFF_JITTER, _BACKOFF_LIMIT_SECONDS = 0.5, 0.25, 8.0
"""How long OpenAI's clients wait for before they repeat a refused call: as it says, within a limit, or their own wait,
which doubles with each repeat and is shorter by up to a quarter.

Source: _base_client.py of openai-python, _calculate_retry_timeout.
"""
_REFUSED_SECONDS = 5.0
"""For so long after that wait the repeat of a refused call comes."""
_CLOCK_SECONDS = 1.0
"""By how much the clocks of a client and of the gateway may measure one wait differently."""


@dataclass(slots=True)
class Made:
    """A generation that a call created.

    Attributes:
        at: when, in seconds since the epoch, by the clock of the database.
        retry_count: the highest count of the repeats that were answered with it.
        is_by_retry: whether a repeat created it.
        is_counted: whether the client of the call that created it counts its repeats.
        received_at: when that repeat was received; 0: its first call is on its way no more, for it was refused.
        answered_at: when an answer that names it was sent, and had the time to arrive; None: not yet.
        tried_at: when the last call that was answered with it, or will be, was received.
        left_at: when its client closed the connection before the answer; None: it has not.
    """

    at: float
    retry_count: int = 0
    is_by_retry: bool = False
    is_counted: bool = False
    received_at: float = 0.0
    answered_at: float | None = None
    tried_at: float = 0.0
    left_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form in which the row keeps it."""
        return {name: getattr(self, name) for name in self.__slots__}


Recent = dict[str, Made]
"""The generations of a digest by their ids, the oldest first."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused call whose client counts its repeats.

    Attributes:
        at: when it was refused, in seconds since the epoch, by the clock of the database.
        count: which repeat it was.
        wait_seconds: the wait before a retry that the refusal named; 0: none.
    """

    at: float
    count: int
    wait_seconds: float = 0.0

    def is_repeated_by(self, call: ClientCall, now: float) -> bool:
        """Return whether a call may be its repeat: of that count, when its client was to send it."""
        backoff_seconds = min(_BACKOFF_SECONDS * 2**self.count, _BACKOFF_LIMIT_SECONDS)
        least_seconds, most_seconds = (1 - _BACKOFF_JITTER) * backoff_seconds, backoff_seconds
        if 0 < self.wait_seconds <= _WAIT_LIMIT_SECONDS:
            least_seconds = most_seconds = self.wait_seconds
        waited_seconds = now - self.at
        is_due = least_seconds - _CLOCK_SECONDS < waited_seconds < most_seconds + _REFUSED_SECONDS
        return call.count == self.count + 1 and is_due


def match(recent: Mapping[str, Made], call: ClientCall, *, now: float, waited_seconds: float) -> str | None:
    """Return the id of the generation that a call is answered with; None: it creates its own.

    A repeat takes one of a client that counts before one of another, one that was not answered before one that was (and
    of the latter only one that no repeat of its count has taken), one whose client has left before one whose client has
    its connection, then the newest. A first call takes only one that a repeat created which was received after the
    call, or whose client has just lost its connection before the answer: clients that count no repeats repeat their
    calls then.

    Args:
        recent: the generations of the call's digest.
        call: the call.
        now: seconds since the epoch, by the clock of the database.
        waited_seconds: how long ago the gateway received the call.
    """
    if call.count == 0:
        received_at = now - waited_seconds
        found = [
            key
            for key, made in recent.items()
            if (made.is_by_retry and made.received_at > received_at)
            or (call.retry_count is None and _was_left(made, now))
        ]
        return found[-1] if found else None
    open_ids = [key for key, made in recent.items() if _is_open(made, call, now)]
    return min(reversed(open_ids), key=lambda key: _unlikeliness(recent[key], call), default=None)


def _unlikeliness(made: Made, call: ClientCall) -> tuple[bool, bool, bool, bool]:
    """How unlikely a repeat is of the call that created this: the client counts, lacks an answer, has left, is due."""
    return not made.is_counted, made.answered_at is not None, made.left_at is None, made.retry_count >= call.count


def repeats_refused(refusals: list[Refusal], recent: Mapping[str, Made], call: ClientCall, *, now: float) -> bool:
    """Return whether a call is taken for the repeat of a refused one, which is then forgotten: it had one repeat.

    It is not where the client of a younger generation has left: that call is repeated for certain.
    """
    for refusal in refusals:
        is_owed = any(made.at > refusal.at and made.left_at is not None for made in recent.values())
        if refusal.is_repeated_by(call, now) and not is_owed:
            refusals.remove(refusal)
            return True
    return False


def _may_lack_answer(made: Made, now: float) -> bool:
    return made.answered_at is None or made.answered_at > now - _ANSWERED_SECONDS


def may_be_left(recent: Mapping[str, Made], call: ClientCall, *, now: float) -> bool:
    """Return whether an uncounted call may be the repeat of one whose client has left, which is not recorded yet."""
    return call.retry_count is None and any(
        _is_on_its_way(made, now) and not made.is_counted and made.at > now - _LEFT_SECONDS for made in recent.values()
    )


def _is_on_its_way(made: Made, now: float) -> bool:
    """Whether the answer to a call is not sent, or has not had the time to arrive."""
    return made.answered_at is None or made.answered_at > now


def _was_left(made: Made, now: float) -> bool:
    return (
        not made.is_counted
        and made.answered_at is None
        and made.left_at is not None
        and made.left_at > now - _LEFT_SECONDS
    )


def _is_open(made: Made, call: ClientCall, now: float) -> bool:
    if made.answered_at is None:
        return max(made.at, made.tried_at) > now - call.window_seconds
    if made.retry_count >= call.count:
        # A repeat of another call has taken it.
        return False
    waited_seconds = now - made.tried_at
    has_timed_out = 0 < call.timeout_seconds - _CLOCK_SECONDS <= waited_seconds <= call.timeout_seconds + _LATE_SECONDS
    return has_timed_out or waited_seconds <= _PROXY_SECONDS or _may_lack_answer(made, now)
