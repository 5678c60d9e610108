"""A fixed sequence of requests to a real stack, and what its public APIs answer of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import grpc
from darkroom.experiments.v1 import experiments_pb2
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub
from google.protobuf.message import Message

from libs.common.rpc.errors import from_rpc_error
from sandbox.launcher import Stack
from sandbox.plan import SERVICES
from tests.conftest import quick, stack_folder, stack_plan
from tests.differential.aliases import Aliases
from tests.differential.projection import document, message
from tests.differential.recording import Part, Row, Rows, Tell, Tolerance
from tests.support.asked import PROCESSING as BATCH_PROCESSING
from tests.support.experiments import SETTINGS, results, service_answers, started, users_of
from tests.support.infrastructure import TEMPLATE, Infrastructure, infrastructure
from tests.support.receiver import Receiver, receiver
from tests.support.rows import opened
from tests.support.running import Running
from tests.support.simulator import FAILS, REFUSES, Simulator, simulated
from tests.support.waiting import eventually

_OWN_SETTINGS = {
    **SETTINGS,
    "DARKROOM_LOG_LEVEL": "info",
    "DARKROOM_LATE_POLL_FIRST_SECONDS": "1",
    "DARKROOM_LATE_POLL_LONGEST_SECONDS": "1",
}
_SMALL = {"size_or_ratio": "256x256"}
_LATE_MODEL = "kling-v1-6"
_TIMEOUT_SECONDS = 60
_USERS_OF_A_VARIANT = 6
_RATINGS = (5, 4, 3)
_LOST = [{"operation": "submit", "kind": "reset", "after": True}]


def _adjust(catalog: dict[str, Any]) -> None:
    """Shorten the waits of the catalog, and the deadline of one model, so that its tasks can be late."""
    quick(catalog)
    catalog["models"][_LATE_MODEL]["polling"]["max_duration_seconds"] = 2


class _Sequence:
    """The requests of one client, one after the other, and the rows that are recorded of them.

    Args:
        running: the stack.
        client: the gateway's RPCs with a key of the client's.
        hook: the receiver of callbacks.
        tell: called with a line of progress for each request.
    """

    def __init__(self, running: Running, client: GenerationServiceStub, hook: Receiver, tell: Tell) -> None:
        self.rows: Rows = {}
        self.aliases = Aliases()
        self.running = running
        self.client = client
        self.hook = hook
        self._tell = tell
        self._ids: dict[str, str] = {}

    def note(self, name: str, row: Row) -> None:
        """Record a row."""
        self._tell(name)
        self.rows[name] = self.aliases.within(row)

    async def create(self, name: str, model: str = "flux-pro", **fields: Any) -> gateway_pb2.CreateGenerationResponse:
        """Create a generation, and record the answer. `fields`: `prompt`, `parameters` and others of the request."""
        parameters = fields.pop("parameters", _SMALL if model.startswith("flux") else {})
        request = gateway_pb2.CreateGenerationRequest(model_identifier=model, **fields)
        request.parameters.update(parameters)
        made = await self.client.CreateGeneration(request, timeout=_TIMEOUT_SECONDS)
        self._ids[name] = made.id
        self.note(f"{name}: created", message(made))
        return made

    async def to_the_end(self, name: str, model: str = "flux-pro", **fields: Any) -> str:
        """Create a generation, wait until it has ended, and return its id."""
        made = await self.create(name, model, **fields)
        await self.running.ended(made.id)
        return made.id

    async def refused(self, name: str, call: Awaitable[Message]) -> None:
        """Record the error of a call, or its answer where it is not refused."""
        try:
            self.note(name, message(await call))
        except grpc.aio.AioRpcError as error:
            found = from_rpc_error(error)
            row = {"grpc_status": error.code().name, "violations": [one.field for one in found.violations]}
            self.note(name, document(found.to_json() | row))

    async def look(self) -> None:
        """Record each generation as its owner sees it."""
        for name, generation_id in self._ids.items():
            self.note(f"{name}: generation", message(await self.running.get(generation_id)))


async def _ends_of_all_kinds(sequence: _Sequence) -> None:
    first: dict[str, Any] = {"labels": {"team": "red"}, "user_id": "u1", "priority": 7}
    await sequence.to_the_end("success", prompt=simulated("an apple", task_seconds=0.2), **first)
    await sequence.to_the_end("success at once", "gpt-image-1", prompt=simulated("a pear", task_seconds=0))
    await sequence.to_the_end(
        "two outputs", "gpt-image-1", prompt=simulated("plums", task_seconds=0), number_of_outputs=2
    )
    await sequence.to_the_end("failed by the vendor", prompt=simulated("fails", task_seconds=0.2, faults=FAILS))
    await sequence.to_the_end("moderated", prompt=simulated("moderated", task_seconds=0.2, faults=REFUSES))
    for kind, times in (("400", 9), ("401", 9), ("429", 1), ("503", 1)):
        fault = [{"operation": "submit", "kind": kind, "times": times}]
        prompt = simulated(f"answers {kind}", task_seconds=0.2, faults=fault)
        await sequence.to_the_end(f"submit answered {kind} {times} times", prompt=prompt)
    await sequence.to_the_end("reply lost", prompt=simulated("lost", task_seconds=0.2, faults=_LOST))


async def _cancelled(sequence: _Sequence) -> None:
    made = await sequence.create("cancelled", prompt=simulated("long", task_seconds=60))
    await sequence.running.reaches(made.id, gateway_pb2.GENERATION_STATUS_PROCESSING)
    await sequence.running.cancel(made.id)
    await sequence.running.ended(made.id)
    again = sequence.client.CancelGeneration(gateway_pb2.CancelGenerationRequest(id=made.id), timeout=_TIMEOUT_SECONDS)
    await sequence.refused("cancelled again", again)


async def _repeats(sequence: _Sequence) -> None:
    given: dict[str, Any] = {"idempotency_key": "once", "prompt": simulated("once", task_seconds=0.2)}
    await sequence.to_the_end("idempotent", **given)
    await sequence.create("idempotent, repeated", **given)
    await sequence.refused("idempotent, other body", sequence.create("", **{**given, "prompt": "other"}))
    same: dict[str, Any] = {"prompt": simulated("an apple", task_seconds=0.2), "reuse_within_seconds": 600}
    await sequence.to_the_end("reused", **same)
    await sequence.refused("unknown model", sequence.create("", "no-such-model", prompt="x"))
    await sequence.refused("unknown parameter", sequence.create("", prompt="x", parameters={"colour": "red"}))
    await sequence.refused("no prompt", sequence.create("", prompt=" "))


async def _late(sequence: _Sequence) -> None:
    """A task that ends after its deadline; a generation continues the one that has failed."""
    failed_id = await sequence.to_the_end("late", _LATE_MODEL, prompt=simulated("late", task_seconds=5))

    async def has_continuation() -> str:
        return (await sequence.running.get(failed_id)).continued_by_id

    continued_by = await eventually(has_continuation, within=30, what="the late result is stored")
    await sequence.running.ended(continued_by)
    sequence.note("late: continuation", message(await sequence.running.get(continued_by)))


async def _batch(sequence: _Sequence) -> None:
    """Three requests in their order, of which the second fails once; then the batch is resumed."""
    fault = [{"operation": "submit", "kind": "400", "times": 1}]
    prompts = [simulated(f"part {n}", task_seconds=0.2, faults=fault if n == 1 else []) for n in range(3)]
    requests = [gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt=prompt) for prompt in prompts]
    for request in requests:
        request.parameters.update(_SMALL)
    options = gateway_pb2.BatchOptions(parallel=False, callback_url=sequence.hook.url)
    made = await sequence.client.CreateBatch(
        gateway_pb2.CreateBatchRequest(requests=requests, options=options), timeout=_TIMEOUT_SECONDS
    )
    sequence.note("batch: created", message(made))
    sequence.note("batch: ended", message(await _ended_batch(sequence, made.batch_id)))
    # A batch that is resumed before its end was noticed has no callback of that end.
    await _told(sequence, made.batch_id, 1)
    resume = gateway_pb2.ResumeBatchRequest(batch_id=made.batch_id)
    resumed = await sequence.client.ResumeBatch(resume, timeout=_TIMEOUT_SECONDS)
    sequence.note("batch: resumed", {"resumed_tasks": resumed.resumed_tasks})
    sequence.note("batch: ended again", message(await _ended_batch(sequence, made.batch_id)))
    await _told(sequence, made.batch_id, 2)


async def _told(sequence: _Sequence, batch_id: str, count: int) -> None:
    """Wait until a batch has so many callbacks."""

    async def has_so_many() -> bool:
        request = gateway_pb2.ListCallbacksRequest(batch_id=batch_id)
        found = (await sequence.client.ListCallbacks(request, timeout=_TIMEOUT_SECONDS)).callbacks
        return len(found) == count

    await eventually(has_so_many, within=30, what=f"{batch_id} has {count} callbacks")


async def _ended_batch(sequence: _Sequence, batch_id: str) -> gateway_pb2.Batch:
    async def has_ended() -> gateway_pb2.Batch | None:
        request = gateway_pb2.GetBatchRequest(batch_id=batch_id)
        found = (await sequence.client.GetBatch(request, timeout=_TIMEOUT_SECONDS)).batch
        return found if found.status != BATCH_PROCESSING else None

    found = await eventually(has_ended, within=30, what=f"{batch_id} has ended")
    assert found is not None
    return found


async def _submissions(sequence: _Sequence, moment: str) -> list[str]:
    """Record the submissions of concern to an operator, and return their ids."""
    request = gateway_pb2.ListSubmissionsRequest(concern=gateway_pb2.SUBMISSION_CONCERN_ANY)
    found = await sequence.running.gateway.ListSubmissions(request, timeout=_TIMEOUT_SECONDS)
    sequence.note(f"submissions of concern {moment}", message(found))
    return [one.id for one in found.submissions]


async def _resolved(sequence: _Sequence) -> None:
    """An operator says of the newest submission that it was billed, and of the others that they were not."""
    billing = [gateway_pb2.SUBMISSION_BILLING_BILLED]
    for submission_id in await _submissions(sequence, "before they were resolved"):
        said = billing.pop() if billing else gateway_pb2.SUBMISSION_BILLING_NOT_BILLED
        await sequence.running.resolve(submission_id, gateway_pb2.SUBMISSION_RESOLUTION_DISMISSED, billing=said)
    await _submissions(sequence, "after they were resolved")


async def _experiment(sequence: _Sequence, database_url: str) -> None:
    """An experiment with two variants, a number of users for each, and ratings in turn."""
    running = sequence.running
    await service_answers(running)
    made = await started(running)
    async with opened(database_url) as database:
        users = await users_of(database, made.id, _USERS_OF_A_VARIANT)
    ids = [await running.create("flux-pro", f"apple {number}", parameters=_SMALL, user_id=user)
           for number, user in enumerate(users)]  # fmt: skip
    generations = [await running.ended(generation_id) for generation_id in ids]
    for model in ("flux-pro", "flux-dev"):
        own = [one.id for one in generations if one.model_identifier == model]
        for generation_id, rating in zip(own, _RATINGS, strict=False):
            request = gateway_pb2.RateGenerationRequest(id=generation_id, rating=rating)
            await running.gateway.RateGeneration(request, timeout=_TIMEOUT_SECONDS)

    async def all_counted() -> experiments_pb2.GetResultsResponse | None:
        found = await results(running, made.id)
        counted = sum(one.generations - one.in_flight for one in found.counts)
        return found if counted == len(ids) else None

    found = await eventually(all_counted, within=30, what="the experiment has counted all generations")
    assert found is not None
    sequence.note("experiment: planned", message(made))
    sequence.note("experiment: results", message(found))


async def _callbacks(sequence: _Sequence) -> None:
    """Record the callbacks and the bodies that arrived, by subject and event."""

    async def all_delivered() -> Sequence[gateway_pb2.Callback]:
        request = gateway_pb2.ListCallbacksRequest(page_size=1_000)
        found = (await sequence.client.ListCallbacks(request, timeout=_TIMEOUT_SECONDS)).callbacks
        is_open = any(one.state == gateway_pb2.CALLBACK_STATE_PENDING for one in found)
        return [] if is_open or len(sequence.hook.received) < len(found) else found

    for one in await eventually(all_delivered, within=30, what="all callbacks are delivered"):
        row = {**sequence.aliases.within(message(one)), "id": bool(one.id)}
        sequence.note(f"callback {row['generation_id'] or row['batch_id']} {row['event']}", row)
    for request in sequence.hook.received:
        body = sequence.aliases.within(document(request.json))
        subject = body["data"].get("id") or body["data"].get("batch_id")
        names = sorted(name for name in request.headers if name.startswith(("webhook", "content-type", "user-agent")))
        sequence.note(f"body {subject} {body['type']}", {"body": body, "headers": names})


async def _figures(sequence: _Sequence) -> None:
    """Record usage of keys and statistics once nothing is under way."""
    stub = MonitorServiceStub(sequence.running.channel("monitor"))

    async def settled() -> monitor_pb2.GetStatsResponse | None:
        found = await stub.GetStats(monitor_pb2.GetStatsRequest(), timeout=_TIMEOUT_SECONDS)
        return None if found.active_requests or found.active_tasks else found

    found = await eventually(settled, within=30, what="the statistics know of nothing under way")
    assert found is not None
    row = message(found)
    sequence.note(
        "statistics", {name: value for name, value in row.items() if name not in {"adapter_stats", "model_stats"}}
    )
    for one in row["model_stats"]:
        sequence.note(f"statistics of {one['model_identifier']}", one)
    for one in row["adapter_stats"]:
        sequence.note(f"statistics of adapter {one['adapter_name']}", one)
    keys = await sequence.running.admin.ListApiKeys(admin_pb2.ListApiKeysRequest(), timeout=_TIMEOUT_SECONDS)
    for key in keys.api_keys:
        sequence.note(f"key of {key.owner}", message(key))


async def _run(shared: Infrastructure, stack: Stack, database_url: str, tell: Tell) -> Rows:
    running = Running(stack)
    await Simulator(shared.simulators_url).behave(task_seconds=0.2, active_tasks_limit=100)
    try:
        async with receiver() as hook:
            client = await running.client(
                "acme", callback_url=hook.url, quota=admin_pb2.ApiKeyQuota(monthly_budget_usd=50)
            )
            sequence = _Sequence(running, client, hook, tell)
            await _ends_of_all_kinds(sequence)
            await _cancelled(sequence)
            await _repeats(sequence)
            await _late(sequence)
            await _batch(sequence)
            await _resolved(sequence)
            await sequence.look()
            await _callbacks(sequence)
            await _experiment(sequence, database_url)
            await _figures(sequence)
            return sequence.rows
    finally:
        await running.close()


def record(tell: Tell) -> Rows:
    """Record the answers to a fixed sequence of requests.

    Raises:
        AssertionError: something did not happen in time.
    """
    with stack_folder() as folder, infrastructure(folder) as shared:
        url = shared.postgres.create_database("sequence", template=TEMPLATE)
        own = Path(folder) / "stack"
        own.mkdir()
        plan = stack_plan(shared, own, url, settings=_OWN_SETTINGS, adjust=_adjust, services=SERVICES)
        with Stack(plan, start=shared.nursery.start) as stack:
            return asyncio.run(_run(shared, stack, url, tell))


PART = Part(
    "sequence",
    record,
    (
        Tolerance("statistics of adapter *: call_count", 1_000, "Checks are repeated until a task ends, by time."),
        Tolerance("statistics of adapter *: success_count", 1_000, "Checks are repeated until a task ends, by time."),
    ),
)
