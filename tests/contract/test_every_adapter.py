"""The one suite that every adapter passes, against the simulator of its vendor."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import aiohttp
import pytest
from yarl import URL

from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import Adapter, Completed, InputImage, ProviderOutput, Submitted, Task, TaskStatus
from libs.common.adapters.registry import adapters
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError, NotAccepted
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.pipeline import Pipeline
from sandbox.demo import looked_into
from sandbox.simulators import pictures
from tests.contract.cases import ASYNCHRONOUS, CASES, Case
from tests.contract.conftest import adapter as adapter_of
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("simulator")
ALL = sorted(CASES)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
async def adapter(accounts: Accounts, case: Case) -> Adapter:
    return adapter_of(accounts, case.provider)


def every(names: list[str]) -> pytest.MarkDecorator:
    """Run a test for each of these adapters."""
    return pytest.mark.parametrize("case", names, indirect=True)


def _task(submitted: Submitted, case: Case, *, age_seconds: float = 20.0) -> Task:
    return Task(submitted.task_id, case.upstream_model, submitted.check_url, age_seconds)


async def _submitted(adapter: Adapter, case: Case, prompt: str) -> Submitted:
    answer = await adapter.submit(case.request(prompt))
    assert isinstance(answer, Submitted)
    return answer


async def _ended(adapter: Adapter, task: Task) -> TaskStatus:
    async def look() -> TaskStatus | None:
        status = await adapter.check_task(task)
        return status if status.state.has_ended else None

    found = await eventually(look, within=10, what="the task has ended")
    assert found is not None
    return found


async def _content(adapter: Adapter, output: ProviderOutput) -> bytes:
    if output.content is not None:
        return output.content
    url = URL(str(output.url))
    headers = adapter.http.headers_for(url) if output.needs_credentials else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers, raise_for_status=True) as reply:
        return await reply.read()


async def _outputs(adapter: Adapter, case: Case, prompt: str, outputs: int = 1) -> tuple[ProviderOutput, ...]:
    answer = await adapter.submit(case.request(prompt, outputs=outputs))
    if isinstance(answer, Completed):
        return answer.outputs
    status = await _ended(adapter, _task(answer, case))
    assert status.state is TaskState.SUCCESS, status.error
    return status.outputs


def test_every_adapter_has_its_case() -> None:
    assert set(CASES) == set(adapters())


@every(ALL)
async def test_success(adapter: Adapter, case: Case, simulator: Simulator) -> None:
    prompt = simulated("a red apple", task_seconds=0.2)
    (output,) = await _outputs(adapter, case, prompt)
    assert looked_into(await _content(adapter, output), case.media_type).size
    assert len(await simulator.bills(prompt)) == 1


@every([name for name in ALL if CASES[name].many])
async def test_several_outputs(adapter: Adapter, case: Case) -> None:
    outputs = await _outputs(adapter, case, simulated("three", task_seconds=0), outputs=3)
    assert len({await _content(adapter, output) for output in outputs}) == 3


@every(ALL)
async def test_a_picture_to_start_from(accounts: Accounts, case: Case, simulator: Simulator) -> None:
    adapter = adapter_of(accounts, case.provider)
    prompt = simulated(f"moving with {case.adapter}", task_seconds=0)
    needs = adapter.image_needs(case.request(prompt).parameters)
    assert needs is not None
    prepared = Pipeline(needs.held(needs.config), SourceLimits()).run(pictures.draw("start", 1, 512, 512, "webp"))
    encoded = f"data:{prepared.content_type};base64,{b64encode(prepared.content).decode()}"
    # A URL leads to another machine, where the simulators do not look.
    url = "https://example.com/start.jpg" if needs.config.output.kind == "url" else encoded
    image = InputImage(url, prepared.content, prepared.content_type)
    answer = await adapter.submit(case.request(prompt, images=(image,)))
    assert isinstance(answer, Submitted | Completed)
    received = [] if url.startswith("https") else [hashlib.sha256(prepared.content).hexdigest()]
    assert await simulator.pictures(prompt) == received


@every(ALL)
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param({"kind": "400"}, ErrorCode.INVALID_REQUEST, id="400"),
        pytest.param({"kind": "429", "retry_after_seconds": 7}, ErrorCode.RATE_LIMITED, id="429 with retry-after"),
    ],
)
async def test_a_refusal_proves_that_nothing_was_taken(
    adapter: Adapter, case: Case, simulator: Simulator, fault: dict[str, object], code: ErrorCode
) -> None:
    prompt = simulated("x", faults=[{"operation": "submit", **fault}])
    with pytest.raises(NotAccepted) as caught:
        await adapter.submit(case.request(prompt))
    assert caught.value.code is code
    assert caught.value.retry_after_seconds == fault.get("retry_after_seconds")
    assert await simulator.bills(prompt) == []


@every(ALL)
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("500", ErrorCode.PROVIDER_ERROR),
        ("503", ErrorCode.PROVIDER_UNAVAILABLE),
        ("timeout", ErrorCode.PROVIDER_TIMEOUT),
        ("reset", ErrorCode.PROVIDER_UNAVAILABLE),
        ("html", ErrorCode.PROVIDER_ERROR),
        ("truncated", ErrorCode.PROVIDER_ERROR),
        ("empty", ErrorCode.PROVIDER_ERROR),
    ],
)
async def test_a_reply_that_is_lost_leaves_the_submit_uncertain(
    adapter: Adapter, case: Case, simulator: Simulator, kind: str, code: ErrorCode
) -> None:
    prompt = simulated("x", task_seconds=0, faults=[{"operation": "submit", "kind": kind, "after": True}])
    with pytest.raises(GenerationError) as caught:
        await adapter.submit(case.request(prompt))
    assert not isinstance(caught.value, NotAccepted)
    assert caught.value.code is code
    assert len(await simulator.bills(prompt)) == 1


@every(ALL)
async def test_a_wrong_key_is_told_without_showing_it(
    accounts: Accounts, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = accounts.catalog.current.providers[case.provider]
    wrong = "sk-wrong-key-that-is-as-long-as-a-right-one"
    for variable in provider.credentials.values():
        monkeypatch.setenv(variable, wrong)
    other = accounts.adapter(provider.model_copy(update={"id": "other"}))
    with pytest.raises(NotAccepted) as caught:
        await other.submit(case.request("x"))
    assert caught.value.code is ErrorCode.AUTHENTICATION_FAILED
    assert wrong not in f"{caught.value} {caught.value.details}"


@every(ASYNCHRONOUS)
@pytest.mark.parametrize("kind", ["500", "503", "429", "timeout", "html", "truncated", "empty", "error_in_ok"])
async def test_a_check_that_fails_is_an_error_and_no_end(adapter: Adapter, case: Case, kind: str) -> None:
    prompt = simulated("x", task_seconds=0, faults=[{"operation": "check", "kind": kind, "times": 1}])
    task = _task(await _submitted(adapter, case, prompt), case)
    with pytest.raises(GenerationError):
        await adapter.check_task(task)
    assert (await adapter.check_task(task)).state is TaskState.SUCCESS


@every(ASYNCHRONOUS)
@pytest.mark.parametrize("kind", ["moderated", "failed"])
async def test_a_task_that_fails_says_why(adapter: Adapter, case: Case, kind: str) -> None:
    prompt = simulated("x", task_seconds=0, faults=[{"operation": "result", "kind": kind}])
    status = await _ended(adapter, _task(await _submitted(adapter, case, prompt), case))
    assert status.state is TaskState.FAILED
    assert status.error is not None
    # Kling and Pollo have no word of their own for moderation of a task that was taken.
    silent = kind == "failed" or case.adapter in {"kling", "kling_relay", "pollo"}
    assert status.error.code is (ErrorCode.TASK_FAILED if silent else ErrorCode.CONTENT_REJECTED)


@every(ASYNCHRONOUS)
async def test_a_task_that_the_vendor_does_not_know_is_an_error(adapter: Adapter, case: Case) -> None:
    submitted = await _submitted(adapter, case, simulated("x", task_seconds=0))
    url = submitted.check_url.replace(submitted.task_id, "none") if submitted.check_url else None
    with pytest.raises(GenerationError):
        await adapter.check_task(Task("none", case.upstream_model, url, 60.0))


@every(ALL)
async def test_a_huge_reply_is_cut_off(accounts: Accounts, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = adapters()[case.adapter]
    monkeypatch.setattr(kind, "reply_limit_bytes", 20)
    provider = accounts.catalog.current.providers[case.provider].model_copy(update={"id": "small"})
    with pytest.raises(GenerationError, match="larger than 20 bytes") as caught:
        await accounts.adapter(provider).submit(case.request(simulated("x", task_seconds=0)))
    assert not isinstance(caught.value, NotAccepted)


@every(ALL)
async def test_an_error_inside_a_good_status_is_seen(adapter: Adapter, case: Case) -> None:
    prompt = simulated("x", task_seconds=0, faults=[{"operation": "submit", "kind": "error_in_ok"}])
    with pytest.raises(GenerationError):
        await adapter.submit(case.request(prompt))


@every(ASYNCHRONOUS)
async def test_an_unknown_state_counts_as_processing_and_is_named(adapter: Adapter, case: Case) -> None:
    fault = {"operation": "check", "kind": "unknown_state", "times": 1}
    task = _task(await _submitted(adapter, case, simulated("x", task_seconds=0, faults=[fault])), case)
    status = await adapter.check_task(task)
    assert (status.state, status.unknown_state) == (TaskState.PROCESSING, "warming up")
    assert (await adapter.check_task(task)).state is TaskState.SUCCESS


@every(ASYNCHRONOUS)
async def test_cancelling_works_or_says_that_it_does_not(adapter: Adapter, case: Case) -> None:
    task = _task(await _submitted(adapter, case, simulated("x", task_seconds=60)), case)
    if not adapter.can_cancel:
        with pytest.raises(GenerationError, match="cannot cancel"):
            await adapter.cancel(task)
        return
    await adapter.cancel(task)
    await adapter.cancel(task)
    assert (await adapter.check_task(task)).state.has_ended


@every([name for name in ALL if adapters()[name].can_list])
async def test_several_tasks_are_checked_together(adapter: Adapter, case: Case) -> None:
    tasks = [
        _task(await _submitted(adapter, case, simulated(f"x {seconds}", task_seconds=seconds)), case)
        for seconds in (0, 60)
    ]
    found = await adapter.check_tasks([*tasks, Task("none", case.upstream_model, None, 60.0)])
    assert {task_id: status.state.has_ended for task_id, status in found.items()} == {
        tasks[0].task_id: True,
        tasks[1].task_id: False,
    }


@every([name for name in ALL if adapters()[name].can_find_task])
async def test_a_lost_submit_is_found_by_our_id(adapter: Adapter, case: Case) -> None:
    submitted = await _submitted(adapter, case, simulated("x", task_seconds=0))
    found = await adapter.find_task("sub_01jdq2v8x4")
    assert found == submitted
    assert await adapter.find_task("sub_never_sent") is None
