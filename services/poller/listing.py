"""Asks for many tasks at once where the vendor can list them, one by one where that does not find them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from libs.common.adapters.base import Adapter, Task, TaskStatus

FEWEST = 5
"""From so many tasks on a list costs fewer calls: it may take two, and it does not name the old ones."""


class Listing:
    """One list call for a group of tasks, made when the first of them is asked for. It fails for all of them alike."""

    def __init__(self, adapter: Adapter, tasks: Sequence[Task]) -> None:
        self._adapter = adapter
        self._tasks = tasks
        self._asked: asyncio.Task[dict[str, TaskStatus]] | None = None

    async def check(self, task: Task) -> TaskStatus:
        """Where a task stands. Raises what `check_tasks` or `check_task` raises."""
        if self._asked is None:
            self._asked = asyncio.create_task(self._adapter.check_tasks(self._tasks))
        # One that is cut off at a stop must not take the answer from the others.
        listed = await asyncio.shield(self._asked)
        found = listed.get(task.task_id)
        return found if found is not None else await self._adapter.check_task(task)
