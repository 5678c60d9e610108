"""What is Pollo's alone; test_every_adapter.py holds what every adapter must do."""

from __future__ import annotations

import pytest

from libs.common.database.states import TaskState
from tests.contract.answers import checked


@pytest.mark.parametrize(
    ("states", "expected", "outputs"),
    [
        (["waiting", "waiting"], TaskState.PENDING, 0),
        (["waiting", "processing"], TaskState.PROCESSING, 0),
        (["succeed", "processing"], TaskState.PROCESSING, 0),
        (["succeed", "failed"], TaskState.SUCCESS, 1),
        (["succeed", "succeed"], TaskState.SUCCESS, 2),
        (["failed", "failed"], TaskState.FAILED, 0),
    ],
)
async def test_a_task_has_ended_when_all_its_generations_have(
    states: list[str], expected: TaskState, outputs: int
) -> None:
    body = {
        "taskId": "t",
        "generations": [
            {"status": state, "url": f"https://a/{index}.mp4" if state == "succeed" else None, "failMsg": "no luck"}
            for index, state in enumerate(states)
        ],
    }
    status = await checked("pollo", (200, body))
    assert (status.state, len(status.outputs)) == (expected, outputs)
    assert (status.error is not None) == (expected is TaskState.FAILED)
