"""What is broken when: it follows from a seed alone, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

POSTGRES, SIMULATORS, OBJECTS = "postgres", "simulators", "object store"
_CALM_SECONDS = 2.0
_PROCESS_EVERY_SECONDS = (2.5, 5.5)
_PROCESS_AWAY_SECONDS = (0.5, 3.0)


@dataclass(frozen=True, slots=True)
class Blow:
    """One part is killed `at` so many seconds after the start, and started again after `away_seconds`."""

    at: float
    part: str
    away_seconds: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """All blows, by time."""

    seed: int
    seconds: float
    blows: tuple[Blow, ...]


def schedule(seed: int, *, seconds: float, processes: Sequence[str]) -> Schedule:
    """The blows of `seconds` seconds.

    A process of ours dies every few seconds. Once each third of the time, in turn: Postgres is stopped in immediate
    mode, the providers go away, object storage goes away.
    """
    chance = random.Random(seed)
    blows: list[Blow] = []
    at = _CALM_SECONDS
    back_at = dict.fromkeys(processes, 0.0)
    while at < seconds:
        # One that is away cannot be killed.
        there = sorted(name for name, back in back_at.items() if back < at)
        if there:
            part, away = chance.choice(there), chance.uniform(*_PROCESS_AWAY_SECONDS)
            blows.append(Blow(at, part, away))
            # It also takes a while until it is ready again.
            back_at[part] = at + away + 3.0
        at += chance.uniform(*_PROCESS_EVERY_SECONDS)
    for number, (part, share) in enumerate(((POSTGRES, 0.02), (SIMULATORS, 0.08), (OBJECTS, 0.06))):
        start = seconds * number / 3
        blows.append(Blow(start + chance.uniform(0.2, 0.6) * seconds / 3, part, max(1.0, seconds * share)))
    return Schedule(seed, seconds, tuple(sorted(blows, key=lambda blow: blow.at)))
