"""Whatever a vendor answers: an answer of ours or a GenerationError, never anything else."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.adapters.base import Completed, Submitted, Task, TaskStatus
from libs.common.adapters.registry import adapters
from libs.common.errors import GenerationError
from tests.contract.answers import Answers
from tests.contract.cases import CASES

_WORDS = st.sampled_from(
    ["id", "status", "task_id", "taskId", "task_status", "data", "result", "sample", "error", "code", "output", "url",
     "generations", "request_id", "status_url", "images", "video", "b64_json", "progress", "logs", "task_result",
     "videos", "message", "detail", "results", "polling_url"]
)  # fmt: skip
_STATES = st.sampled_from(sorted({word for kind in adapters().values() for word in kind.states}))
_URLS = st.sampled_from(["https://a/1.png", "http://[", "https://api.replicate.com/v1/files/1", "data:,", "/v1/x"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | _STATES | _URLS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=5),
    max_leaves=12,
)
_BODIES = _JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)

_HEADERS = st.sampled_from(
    ["webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-timestamp", "x-webhook-signature",
     "x-bfl-signature", "x-webhook-secret", "x-fal-webhook-timestamp", "x-fal-webhook-signature"]
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
@given(status=st.sampled_from([200, 201, 202, 204, 301, 400, 402, 403, 404, 408, 422, 429, 500, 503]), body=_BODIES)
def test_any_reply_is_an_answer_or_an_error_of_ours(name: str, status: int, body: bytes) -> None:
    kind, case = adapters()[name], CASES[name]

    async def ask() -> list[object]:
        adapter = kind(Answers(kind, (status, body)))
        task = Task("t", case.upstream_model, "/v1/check/status", 60.0)
        answers: list[object] = []
        for work in (adapter.submit(case.request("x")), adapter.check_task(task), adapter.find_task("sub_1")):
            try:
                answers.append(await work)
            except GenerationError as error:
                answers.append(error)
        try:
            answers += (await adapter.check_tasks([task])).values()
        except GenerationError as error:
            answers.append(error)
        return answers

    for answer in asyncio.run(ask()):
        assert answer is None or isinstance(answer, Submitted | Completed | TaskStatus | GenerationError)
        if isinstance(answer, Submitted):
            assert 1 <= len(answer.task_id) <= 200
        if isinstance(answer, TaskStatus) and answer.progress is not None:
            assert 0 <= answer.progress <= 100


@pytest.mark.parametrize("name", [name for name in sorted(CASES) if adapters()[name].sends_webhooks])
@given(headers=st.dictionaries(_HEADERS, st.text(max_size=20)), body=_BODIES, secret=st.text(max_size=20))
def test_any_webhook_is_a_report_or_an_error_of_ours(
    name: str, headers: dict[str, str], body: bytes, secret: str
) -> None:
    kind = adapters()[name]
    report = None
    try:
        report = kind(Answers(kind, (200, b""))).parse_webhook(headers, body, secret=secret, now=1e9)
    except GenerationError:
        return
    assert report.task_id
