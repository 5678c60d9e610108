"""State machines over a real database: each step is a transaction, whatever thread Hypothesis is on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from libs.common.database.engine import Database

T = TypeVar("T")


class DatabaseMachine(RuleBasedStateMachine):
    """Base of those. `reached` is kept over all runs of one test: what they have seen."""

    database: Database
    loop: asyncio.AbstractEventLoop
    reached: set[Any]

    def _do(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)


def run_machine(
    kind: type[DatabaseMachine], database_url: str, *, examples: int, steps: int, is_random: bool = True
) -> set[Any]:
    """Run it on an empty database, and answer what it has reached. `is_random`: whether each run takes other steps."""
    loop = asyncio.new_event_loop()
    database = Database(database_url, size=2, statement_timeout_seconds=10, application_name="test")
    reached: set[Any] = set()
    machine = type(kind.__name__, (kind,), {"database": database, "loop": loop, "reached": reached})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=not is_random,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        loop.run_until_complete(database.close())
        loop.close()
    return reached
