"""One list call for a group of tasks, and a check of its own for each that the list does not name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from libs.common.adapters.base import Adapter, Task, TaskStatus
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError
from services.poller.listing import Listing

TASKS = [Task(f"task_{number}", "model", None, 1.0) for number in range(4)]


class Lister:
    """A vendor whose list names all tasks but the last."""

    def __init__(self, failure: GenerationError | None = None) -> None:
        self.lists = 0
        self.checks: list[str] = []
        self._failure = failure

    async def check_tasks(self, tasks: Sequence[Task]) -> dict[str, TaskStatus]:
        self.lists += 1
        await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure
        return {task.task_id: TaskStatus(TaskState.PROCESSING) for task in tasks[:-1]}

    async def check_task(self, task: Task) -> TaskStatus:
        self.checks.append(task.task_id)
        return TaskStatus(TaskState.SUCCESS)


async def test_all_share_one_list() -> None:
    vendor = Lister()
    listing = Listing(cast("Adapter", vendor), TASKS)
    found = await asyncio.gather(*(listing.check(task) for task in TASKS))
    assert (vendor.lists, vendor.checks) == (1, ["task_3"])
    assert [status.state for status in found] == [TaskState.PROCESSING] * 3 + [TaskState.SUCCESS]


async def test_a_list_that_fails_fails_for_each() -> None:
    listing = Listing(cast("Adapter", Lister(GenerationError(ErrorCode.PROVIDER_UNAVAILABLE, "away"))), TASKS)
    found = await asyncio.gather(*(listing.check(task) for task in TASKS), return_exceptions=True)
    assert all(isinstance(error, GenerationError) for error in found)


async def test_one_that_is_cut_off_does_not_take_the_answer_from_the_others() -> None:
    listing = Listing(cast("Adapter", Lister()), TASKS)
    impatient, patient = asyncio.create_task(listing.check(TASKS[0])), asyncio.create_task(listing.check(TASKS[1]))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).state is TaskState.PROCESSING
    with pytest.raises(asyncio.CancelledError):
        await impatient
