"""What is broken when: it follows from a seed alone, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

POSTGRES, SIMULATORS, OBJECTS = "postgres", "simulators", "object store"
VENDORS = ("bfl", "kling", "kling-relay", "pollo", "replicate", "fal", "openai-videos")
"""Those whose tasks are checked, as the simulators name them."""
COMMIT_WAIT_SECONDS = 8.0
"""How long an injection waits for the COMMIT after which its fault occurs, in seconds."""
_CALM_SECONDS = 2.0
_PROCESS_EVERY_SECONDS = (2.5, 5.5)
_PROCESS_AWAY_SECONDS = (0.5, 3.0)
# It also takes a while until a process is ready again.
_READY_SECONDS = 3.0


class Kind(StrEnum):
    """The kind of a fault."""

    KILL = "kill"
    """It is killed, and started again."""
    KILL_AFTER_COMMIT = "kill after commit"
    """The gateway is killed when Postgres has committed a generation and the client has no answer yet."""
    STALL = "stall"
    """A dispatcher is stopped by SIGSTOP when Postgres has committed an attempt and the request has not been sent yet,
    and goes on when its lease has expired."""
    REFUSE_READS = "refuse reads"
    """A vendor refuses the account's credentials for all reads."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault of one part: it begins `at` seconds after the start and ends `away_seconds` later.

    `status`: with REFUSE_READS, the HTTP status.
    """

    at: float
    part: str
    away_seconds: float
    kind: Kind = Kind.KILL
    status: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """All injections of a run, ordered by time."""

    seed: int
    seconds: float
    injections: tuple[Injection, ...]


def schedule(seed: int, *, seconds: float, processes: Sequence[str], stall_seconds: float) -> Schedule:
    """The injections of `seconds` seconds.

    A process of ours is killed every few seconds. Once in each third a dispatcher is stalled for `stall_seconds`,
    the gateway is killed between a commit and its reply, and a vendor refuses reads; and in turn Postgres is stopped in
    immediate mode, the vendors are killed, object storage is killed.
    """
    chance = random.Random(seed)
    injections = [
        injection for third in range(3) for injection in _timed_injections(chance, third, seconds / 3, stall_seconds)
    ]
    injections += _kills(
        chance, seconds, processes, [injection for injection in injections if injection.kind is Kind.KILL_AFTER_COMMIT]
    )
    for number, (part, share) in enumerate(((POSTGRES, 0.02), (SIMULATORS, 0.08), (OBJECTS, 0.06))):
        start = seconds * number / 3
        injections.append(Injection(start + chance.uniform(0.2, 0.6) * seconds / 3, part, max(1.0, seconds * share)))
    return Schedule(seed, seconds, tuple(sorted(injections, key=lambda injection: injection.at)))


def _timed_injections(chance: random.Random, third: int, seconds: float, stall_seconds: float) -> list[Injection]:
    def at(low: float, high: float) -> float:
        return (third + chance.uniform(low, high)) * seconds

    vendor, status = chance.choice(VENDORS), chance.choice((401, 403))
    return [
        Injection(at(0.1, 0.4), "dispatcher", stall_seconds, Kind.STALL),
        Injection(at(0.5, 0.8), "gateway", chance.uniform(*_PROCESS_AWAY_SECONDS), Kind.KILL_AFTER_COMMIT),
        Injection(at(0.1, 0.8), vendor, max(2.0, seconds * 0.15), Kind.REFUSE_READS, status),
    ]


def _kills(
    chance: random.Random, seconds: float, processes: Sequence[str], others: Sequence[Injection]
) -> list[Injection]:
    injections: list[Injection] = []
    at = _CALM_SECONDS
    back_at = dict.fromkeys(processes, 0.0)
    while at < seconds:
        # One that is away cannot be killed, nor one that is about to be.
        there = sorted(name for name, back in back_at.items() if back < at and not _is_taken(name, at, others))
        if there:
            part, away = chance.choice(there), chance.uniform(*_PROCESS_AWAY_SECONDS)
            injections.append(Injection(at, part, away))
            back_at[part] = at + away + _READY_SECONDS
        at += chance.uniform(*_PROCESS_EVERY_SECONDS)
    return injections


def _is_taken(part: str, at: float, others: Sequence[Injection]) -> bool:
    before = _PROCESS_AWAY_SECONDS[1] + _READY_SECONDS
    after = COMMIT_WAIT_SECONDS + _READY_SECONDS
    return any(
        injection.part == part and injection.at - before < at < injection.at + injection.away_seconds + after
        for injection in others
    )
