"""What is Replicate's alone; test_every_adapter.py holds what every adapter must do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import ProviderOutput, Submitted
from libs.common.adapters.replicate import Replicate
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, UnreadableReply
from tests.contract.answers import checked
from tests.contract.cases import CASES
from tests.contract.conftest import adapter
from tests.support.simulator import Simulator, simulated


@pytest.fixture
async def found(accounts: Accounts) -> Replicate:
    made = adapter(accounts, "replicate")
    assert isinstance(made, Replicate)
    return made


@pytest.mark.parametrize(
    ("upstream_model", "billed"),
    [
        ("black-forest-labs/flux-schnell", "black-forest-labs/flux-schnell"),
        ("stability-ai/sdxl:7762fd07", "7762fd07"),
        ("5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa",) * 2,
    ],
    ids=["by name", "by name and version", "by version"],
)
async def test_a_model_is_named_or_versioned(
    found: Replicate, simulator: Simulator, upstream_model: str, billed: str
) -> None:
    case = CASES["replicate"]
    prompt = simulated(f"as {billed}", task_seconds=0)
    request = case.request(prompt)
    answer = await found.submit(replace(request, upstream_model=upstream_model))
    assert isinstance(answer, Submitted)
    assert [bill["model"] for bill in await simulator.bills(prompt)] == [billed]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("https://a/1.png", [ProviderOutput("https://a/1.png")]),
        (
            ["https://a/1.png", "https://a/2.png"],
            [ProviderOutput("https://a/1.png"), ProviderOutput("https://a/2.png")],
        ),
        ({"video": "https://a/1.mp4", "seed": 3}, [ProviderOutput("https://a/1.mp4")]),
        (
            "https://api.replicate.com/v1/files/1/download",
            [ProviderOutput("https://api.replicate.com/v1/files/1/download", needs_credentials=True)],
        ),
        ({"files": [{"url": "https://a/1.png"}, ["data:image/png;base64,eA=="]]}, None),
    ],
)
async def test_outputs_come_in_every_form(output: object, expected: list[ProviderOutput] | None) -> None:
    status = await checked("replicate", (200, {"id": "t", "status": "succeeded", "output": output}))
    if expected is None:
        expected = [ProviderOutput("https://a/1.png"), ProviderOutput("data:image/png;base64,eA==")]
    assert list(status.outputs) == expected


@pytest.mark.parametrize("output", [None, ["words", 3, None], {}])
async def test_success_without_an_output_is_an_unreadable_reply(output: object) -> None:
    with pytest.raises(UnreadableReply):
        await checked("replicate", (200, {"id": "t", "status": "succeeded", "output": output}))


@pytest.mark.parametrize(("logs", "progress"), [("10%|#\n55%|####", 55), ("", None), ("999%", 100), (None, None)])
async def test_progress_stands_in_the_logs(logs: str | None, progress: int | None) -> None:
    status = await checked("replicate", (200, {"id": "t", "status": "processing", "logs": logs}))
    assert status.progress == progress


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("NSFW content detected", ErrorCode.CONTENT_REJECTED),
        ("The input was flagged as sensitive. (E005)", ErrorCode.CONTENT_REJECTED),
        ("CUDA out of memory", ErrorCode.TASK_FAILED),
        (None, ErrorCode.TASK_FAILED),
    ],
)
async def test_a_failure_is_told_by_its_words(error: str | None, code: ErrorCode) -> None:
    status = await checked("replicate", (200, {"id": "t", "status": "failed", "error": error}))
    assert status.state is TaskState.FAILED
    assert status.error is not None
    assert status.error.code is code


@pytest.mark.parametrize("status", ["failed", "processing"])
async def test_what_a_model_makes_says_nothing_of_the_task(status: str) -> None:
    output = {"status": status, "task_status": status, "image": "https://a/1.png"}
    found = await checked("replicate", (200, {"id": "t", "status": "succeeded", "input": output, "output": output}))
    assert (found.state, len(found.outputs)) == (TaskState.SUCCESS, 1)
