"""The frozen surface over a running stack: the paths, JSON names, words, codes, units and presets that clients rely on.

Additions pass. Whatever is removed or renamed, or changes its type or its unit, fails.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import psutil
import pytest
from darkroom.poller.v1 import poller_pb2
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub
from PIL import Image

from tests.conftest import PATH_SERVICES
from tests.support.experiments import gateway_knows
from tests.support.http import Reply, call
from tests.support.infrastructure import Infrastructure
from tests.support.rows import execute, opened
from tests.support.running import SUCCESS, Running
from tests.support.simulator import FAILS, Simulator, simulated
from tests.support.stacks import StackOfModule, stack_of_module
from tests.support.waiting import eventually

GENERATION = "/api/external/generation"
EXPERIMENTS = "/api/admin/experiments"
MONITORING = "/api/admin/monitoring"
PATHS = (
    f"post {GENERATION}", f"get {GENERATION}", f"get {GENERATION}/{{id}}", f"delete {GENERATION}/{{id}}",
    f"get {GENERATION}/{{id}}/events", f"post {GENERATION}/{{id}}/rate", f"post {GENERATION}/batch",
    f"get {GENERATION}/batch", f"get {GENERATION}/batch/{{batchId}}", f"delete {GENERATION}/batch/{{batchId}}",
    f"get {GENERATION}/batch/{{batchId}}/events", f"post {GENERATION}/batch/{{batchId}}/resume",
    f"post {GENERATION}/estimate", "get /api/external/models", f"get {MONITORING}/stats", f"get {MONITORING}/errors",
    f"get {MONITORING}/alerts", f"get {MONITORING}/alerts/{{id}}", f"post {MONITORING}/alerts/{{id}}/acknowledge",
    f"post {EXPERIMENTS}", f"get {EXPERIMENTS}", f"get {EXPERIMENTS}/{{id}}", f"post {EXPERIMENTS}/{{id}}/start",
    f"post {EXPERIMENTS}/{{id}}/pause", f"post {EXPERIMENTS}/{{id}}/complete", f"get {EXPERIMENTS}/{{id}}/results",
)  # fmt: skip
# Those that the OpenAPI document does not list: what each answers to a caller with a key.
OTHER_PATHS = {
    "GET /api/health": {200, 503},
    "GET /api/health/detailed": {200, 503},
    "GET /api/metrics": {200},
    "GET /api/openapi.json": {200},
    "POST /api/webhooks/replicate": {400, 401},
    "GET /v1/models": {200},
    "GET /v1/models/flux-pro": {200},
    "POST /v1/images/generations": {400},
    "POST /v1/images/edits": {400},
    "POST /v1/videos": {400},
    "GET /v1/videos/none": {404},
    "GET /v1/videos/none/content": {404},
    "DELETE /v1/videos/none": {404},
    "GET /admin": {200, 302, 303},
}
STATUSES = {"PENDING", "PROCESSING", "SUCCESS", "FAILED", "CANCELLED"}
BATCH_STATUSES = {"PROCESSING", "COMPLETED", "PARTIAL_FAILED", "FAILED"}
CODES = {
    "INVALID_REQUEST", "INVALID_PARAMETERS", "AUTHENTICATION_FAILED", "QUOTA_EXCEEDED", "RATE_LIMITED",
    "CONTENT_REJECTED", "PROVIDER_ERROR", "PROVIDER_UNAVAILABLE", "PROVIDER_TIMEOUT", "INTERNAL_ERROR",
    "S3_UPLOAD_FAILED", "TASK_TIMEOUT", "TASK_FAILED",
}  # fmt: skip
NUMBER = (int, float)


def is_text(value: Any) -> bool:
    """Whether it is a string that says something."""
    return isinstance(value, str) and bool(value)


def is_time(value: Any) -> bool:
    """Whether it is a time of these days, as ISO 8601 writes it."""
    return abs(datetime.now(UTC) - datetime.fromisoformat(value)) < timedelta(days=2)


COMPONENT = {"status": {"up", "degraded", "down"}, "message": str, "lastCheck": is_time, "responseTime": NUMBER}
STATISTICS = {
    "totalRequests": int, "activeRequests": int, "requestRate": NUMBER, "totalTasks": int, "activeTasks": int,
    "completedTasks": int, "failedTasks": int, "taskSuccessRate": NUMBER, "avgTaskDuration": NUMBER,
    "adapterStats": [{
        "callCount": int, "successCount": int, "failureCount": int, "avgResponseTime": NUMBER,
    }],
    "memoryUsage": int, "cpuUsage": NUMBER, "timeRange": {"start": is_time, "end": is_time},
}  # fmt: skip
Shape = Any
"""A mapping: all of its names are there. A list of one shape: a list that is not empty, each item of that shape. A set:
one of its words. A type or several: a value of it. A function: a predicate."""


def lacking(shape: Shape, value: Any, path: str = "$") -> list[str]:
    """The places at which a JSON value has not the shape."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{path} is no object"]
        missing = [f"{path}.{name} is missing" for name in shape.keys() - value.keys()]
        inner = (lacking(shape[name], value[name], f"{path}.{name}") for name in shape.keys() & value.keys())
        return missing + [fault for faults in inner for fault in faults]
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return [f"{path} is no list with items"]
        return [fault for index, item in enumerate(value) for fault in lacking(shape[0], item, f"{path}[{index}]")]
    return [] if _fits(shape, value) else [f"{path} is {value!r}"]


def _fits(shape: Shape, value: Any) -> bool:
    if isinstance(shape, set):
        return value in shape
    if isinstance(shape, type | tuple):
        # JSON's true and false are no numbers.
        return isinstance(value, shape) and not (isinstance(value, bool) and shape is not bool)
    return bool(shape(value))


def within(low: float, high: float) -> Callable[[Any], bool]:
    """Numbers from `low` to `high`, both included: they hold a unit."""
    return lambda value: isinstance(value, NUMBER) and low <= value <= high


@pytest.fixture(scope="module")
def module_stack(shared: Infrastructure) -> Iterator[StackOfModule]:
    settings = {"DARKROOM_EXPERIMENT_REFRESH_SECONDS": "0.1"}
    services = (*PATH_SERVICES, "monitor", "experiments")
    with stack_of_module(shared, "mission_surface", settings=settings, services=services) as found:
        yield found


@pytest.fixture
async def surface(module_stack: StackOfModule, simulator: Simulator) -> Any:
    found = Running(module_stack.stack)
    yield found
    await found.close()


async def ask(running: Running, method: str, path: str, body: Any = None, **options: Any) -> Reply:
    """A request with the admin key."""
    return await call(running.gateway_url(), path, method=method, key=running.admin_key, json_body=body, **options)


async def answered(running: Running, method: str, path: str, body: Any = None) -> Any:
    """The JSON of a request that succeeds."""
    reply = await ask(running, method, path, body)
    assert reply.status == 200, reply.body
    return reply.json


async def ended(running: Running, path: str, words: set[str]) -> Any:
    """What a path shows once its status is one of these words."""

    async def look() -> Any:
        found = await answered(running, "GET", path)
        return found if found["status"] in words else None

    return await eventually(look, within=30, what=f"{path} has ended")


def _picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (2400, 1800), "red").save(content, "PNG")
    return content.getvalue()


async def test_every_path_is_there(surface: Running) -> None:
    document = await answered(surface, "GET", "/api/openapi.json")
    found = {f"{verb} {path}" for path, verbs in document["paths"].items() for verb in verbs}
    assert set(PATHS) <= {path.replace("batch_id", "batchId") for path in found}
    nothing = await ask(surface, "GET", "/api/external/nothing")
    for route in PATHS:
        method, _, path = route.partition(" ")
        reply = await ask(surface, method.upper(), re.sub("{.*?}", "none", path), {} if method == "post" else None)
        assert reply.status in {200, 400, 404}, (route, reply.status, reply.body)
        assert reply.status != 404 or reply.json["detail"] != nothing.json["detail"], route
    for route, statuses in OTHER_PATHS.items():
        method, _, path = route.partition(" ")
        reply = await ask(surface, method, path, {} if method == "POST" else None)
        assert reply.status in statuses, (route, reply.status, reply.body)


@pytest.mark.parametrize("names", [("input_images", "number_of_outputs"), ("inputImages", "numberOfOutputs")])
async def test_a_generation_from_request_to_rating(surface: Running, names: tuple[str, str]) -> None:
    images, outputs = names
    body = {
        "modelIdentifier": "flux-pro", "prompt": simulated("a red apple", task_seconds=0.2),
        images: [], outputs: 1, "parameters": {"seed": 7},
    }  # fmt: skip
    made = await answered(surface, "POST", GENERATION, body)
    assert lacking({"id": str, "status": STATUSES}, made) == []
    path = f"{GENERATION}/{made['id']}"
    done = await ended(surface, path, {"SUCCESS"})
    shape = {"id": str, "status": {"SUCCESS"}, "progress": {100}, "results": [{"type": {"image"}, "url": str}]}
    assert lacking(shape, done) == []
    picture = await call(done["results"][0]["url"], "")
    assert (picture.status, picture.headers["content-type"].split("/")[0]) == (200, "image")
    listed = await answered(surface, "GET", GENERATION)
    assert made["id"] in {one["id"] for one in listed["generations"]}
    rated = await answered(surface, "POST", f"{path}/rate", {"rating": 4, "feedback": "good"})
    assert lacking({"id": str, "rating": {4}}, rated) == []
    await _is_not_deleted(surface, path)
    events = await ask(surface, "GET", f"{path}/events")
    assert (events.headers["content-type"].split(";")[0], b"event: change" in events.body) == (
        "text/event-stream", True,
    )  # fmt: skip


async def test_a_video_with_its_progress_in_percent(surface: Running) -> None:
    body = {"modelIdentifier": "sora-2", "prompt": simulated("a red apple rolls", task_seconds=2)}
    path = f"{GENERATION}/{(await answered(surface, 'POST', GENERATION, body))['id']}"

    async def under_way() -> bool:
        found = await answered(surface, "GET", path)
        return 1 < int(found.get("progress", 0)) < 100

    await eventually(under_way, within=20, what="its progress is shown while it is made")
    done = await ended(surface, path, {"SUCCESS"})
    assert lacking({"results": [{"type": {"video"}, "url": str}]}, done) == []


async def test_delete_cancels_what_has_not_ended_and_refuses_what_has(surface: Running) -> None:
    body = {"modelIdentifier": "flux-pro", "prompt": simulated("long", task_seconds=600)}
    path = f"{GENERATION}/{(await answered(surface, 'POST', GENERATION, body))['id']}"
    assert (await ask(surface, "DELETE", path)).status == 200
    assert (await ended(surface, path, STATUSES - {"PENDING", "PROCESSING"}))["status"] == "CANCELLED"
    await _is_not_deleted(surface, path)
    assert (await answered(surface, "GET", path))["status"] == "CANCELLED"


async def _is_not_deleted(surface: Running, path: str) -> None:
    again = await ask(surface, "DELETE", path)
    assert (again.status, again.json["code"]) == (409, "ALREADY_ENDED")


async def test_a_failed_generation_has_its_error(surface: Running) -> None:
    body = {"modelIdentifier": "flux-pro", "prompt": simulated("bad", task_seconds=0.1, faults=FAILS)}
    made = await answered(surface, "POST", GENERATION, body)
    failed = await ended(surface, f"{GENERATION}/{made['id']}", {"FAILED"})
    error = {"code": {"TASK_FAILED"}, "message": str, "details": dict, "isRetryable": bool}
    assert lacking({"error": error}, failed) == []
    await _is_not_deleted(surface, f"{GENERATION}/{made['id']}")


async def test_the_words_of_statuses_and_codes_are_in_the_document(surface: Running) -> None:
    document = await answered(surface, "GET", "/api/openapi.json")
    words = [set(words) for words in _enums(document)]
    for wanted in (STATUSES, BATCH_STATUSES, CODES):
        assert any(wanted <= found for found in words), wanted


def _enums(schema: Any) -> Iterator[list[str]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("enum"), list):
            yield schema["enum"]
        schema = list(schema.values())
    if isinstance(schema, list):
        for inner in schema:
            yield from _enums(inner)


async def test_a_batch(surface: Running) -> None:
    good = {"modelIdentifier": "flux-pro", "prompt": simulated("one of two", task_seconds=0.1)}
    bad = {"modelIdentifier": "flux-pro", "prompt": simulated("two of two", task_seconds=0.1, faults=FAILS)}
    options = {"parallel": True, "maxConcurrency": 2, "stopOnError": False}
    made = await answered(surface, "POST", f"{GENERATION}/batch", {"requests": [good, bad], "options": options})
    assert lacking({"batchId": str}, made) == []
    path = f"{GENERATION}/batch/{made['batchId']}"
    found = await ended(surface, path, BATCH_STATUSES - {"PROCESSING"})
    task = {"id": str, "status": {"SUCCESS", "FAILED"}}
    shape = {
        "batchId": {made["batchId"]}, "status": {"PARTIAL_FAILED"}, "totalTasks": {2}, "completedTasks": {1},
        "failedTasks": {1}, "tasks": [task],
    }  # fmt: skip
    assert lacking(shape, found) == []
    resumed = await ask(surface, "POST", f"{path}/resume", {})
    assert resumed.status == 200, resumed.body
    for prompt, status in (("one", "COMPLETED"), ("none", "FAILED")):
        faults = {"faults": FAILS} if status == "FAILED" else {}
        request = {"modelIdentifier": "flux-pro", "prompt": simulated(prompt, task_seconds=0.1, **faults)}
        batch_id = (await answered(surface, "POST", f"{GENERATION}/batch", {"requests": [request]}))["batchId"]
        words = BATCH_STATUSES - {"PROCESSING"}
        assert (await ended(surface, f"{GENERATION}/batch/{batch_id}", words))["status"] == status


async def test_an_experiment(surface: Running) -> None:
    body = {
        "name": "Which of two?",
        "variants": [{"name": "pro", "modelIdentifier": "flux-pro"}, {"name": "dev", "modelIdentifier": "flux-dev"}],
        "trafficAllocation": {"variant_0": 50, "variant_1": 50},
        "metrics": [{"name": "avg_cost", "type": "primary", "goal": "minimize"}],
    }
    made = await answered(surface, "POST", EXPERIMENTS, body)
    path = f"{EXPERIMENTS}/{made['id']}"
    planned = await answered(surface, "GET", path)
    metric = {"name": {"avg_cost"}, "type": {"PRIMARY"}, "goal": {"MINIMIZE"}}
    shape = {"variants": [{"id": str}], "trafficAllocation": {"variant_0": {50}}, "metrics": [metric]}
    assert lacking(shape, planned) == []
    assert (await ask(surface, "POST", f"{path}/start", {})).status == 200
    await _take_part(surface)
    stats = {"totalRequests": int, "successRate": {1}, "avgCost": within(0.005, 0.5), "avgDuration": within(0.3, 20)}

    async def measured() -> Any:
        found = (await answered(surface, "GET", f"{path}/results"))["variants"]
        return found if not lacking([{"variantId": str, "stats": stats}], found) else None

    found = await eventually(measured, within=20, what="the results have the figures of both variants")
    assert sum(one["stats"]["totalRequests"] for one in found) == 12
    assert {one["stats"].get("avgRating") for one in found} <= {None, 4}
    assert any("avgRating" in one["stats"] for one in found)
    for verb in ("pause", "start", "complete"):
        assert (await ask(surface, "POST", f"{path}/{verb}", {})).status == 200, verb


async def test_an_experiment_with_a_winner(surface: Running) -> None:
    metric = {"name": "avg_cost", "type": "primary", "goal": "minimize"}
    variants = [{"name": "pro", "modelIdentifier": "flux-pro"}, {"name": "dev", "modelIdentifier": "flux-dev"}]
    body = {"name": "Which is cheaper?", "variants": variants, "metrics": [metric]}
    path = f"{EXPERIMENTS}/{(await answered(surface, 'POST', EXPERIMENTS, body))['id']}"
    assert (await ask(surface, "POST", f"{path}/start", {})).status == 200
    ids = [one["id"] for one in (await answered(surface, "GET", path))["variants"]]
    async with opened(surface.stack.environment["DARKROOM_DATABASE_URL"]) as database:
        for variant_id, usd in zip(ids, (0.05, 0.025), strict=True):
            key = {"experiment_id": path.rpartition("/")[2], "variant_id": variant_id}
            await execute(database, _MEASURED, usd=usd, **key)

    async def won() -> Any:
        found = await answered(surface, "GET", f"{path}/results")
        return found if "winner" in found else None

    found = await eventually(won, within=20, what="the cheaper variant has won")
    winner = {"variantId": {ids[1]}, "confidence": within(90, 100), "recommendation": is_text}
    assert lacking({"winner": winner}, found) == []
    assert (await ask(surface, "POST", f"{path}/complete", {})).status == 200


# Two thousand users of a variant, whose generations succeeded and cost something about `usd`.
_MEASURED = """
INSERT INTO experiment_ledger
    (experiment_id, variant_id, version, unit, owner, user_id, kind, outcome, seconds, cost_usd)
SELECT :experiment_id, :variant_id, 1, experiment_unit('admin', user_id), 'admin', user_id, kind,
    CASE WHEN kind = 'ended' THEN 'SUCCESS' END, CASE WHEN kind = 'ended' THEN 1 END,
    CASE WHEN kind = 'ended' THEN :usd * (0.9 + 0.2 * random()) END
FROM (SELECT :variant_id || n AS user_id FROM generate_series(1, 2000) AS n) users
CROSS JOIN (VALUES ('assigned'), ('ended')) AS line(kind)"""


async def _take_part(surface: Running) -> None:
    """Twelve users whose generations of half a second succeed, the first of whom rates with 4."""
    await gateway_knows(surface)
    prompt = simulated("measured", task_seconds=0.5)
    bodies = [{"modelIdentifier": "flux-pro", "prompt": prompt, "userId": f"user {number}"} for number in range(12)]
    made = await asyncio.gather(*(answered(surface, "POST", GENERATION, body) for body in bodies))
    for one in made:
        await ended(surface, f"{GENERATION}/{one['id']}", {"SUCCESS"})
    await answered(surface, "POST", f"{GENERATION}/{made[0]['id']}/rate", {"rating": 4})


async def test_statistics_with_their_units(surface: Running) -> None:
    body = {"modelIdentifier": "flux-pro", "prompt": simulated("counted", task_seconds=1.0)}
    made = await answered(surface, "POST", GENERATION, body)
    await ended(surface, f"{GENERATION}/{made['id']}", {"SUCCESS"})
    bad = {"modelIdentifier": "flux-pro", "prompt": simulated("counted, too", task_seconds=0.1, faults=FAILS)}
    failed = await answered(surface, "POST", GENERATION, bad)
    await ended(surface, f"{GENERATION}/{failed['id']}", {"FAILED"})

    async def counted() -> Any:
        found = await answered(surface, "GET", f"{MONITORING}/stats")
        # The instances report their memory and processor time every few seconds, and errors come in groups.
        is_whole = found["completedTasks"] and found["memoryUsage"] and found["cpuUsage"]
        has_error = any("lastError" in one for one in found["adapterStats"])
        return found if is_whole and has_error else None

    found = await eventually(counted, within=20, what="the statistics have the generation")
    assert lacking(STATISTICS, found) == []
    # Milliseconds, bytes, percent.
    assert lacking({"avgTaskDuration": within(100, 20_000), "memoryUsage": within(10**8, 10**11)}, found) == []
    assert lacking({"taskSuccessRate": within(0, 1)}, found) == []
    assert lacking([{"avgResponseTime": within(0.5, 5_000)}], found["adapterStats"]) == []
    failing = [one for one in found["adapterStats"] if "lastError" in one]
    assert lacking([{"lastError": {"code": str, "message": str, "isRetryable": bool}}], failing) == []
    # Per second.
    start, end = (datetime.fromisoformat(found["timeRange"][name]) for name in ("start", "end"))
    per_second = found["totalRequests"] / (end - start).total_seconds()
    assert found["requestRate"] == pytest.approx(per_second, rel=0.01)


async def test_processor_time_is_in_percent_of_one_processor(surface: Running) -> None:
    """Compared with what the operating system says of the five processes, while a client keeps the gateway busy."""
    processes = [psutil.Process(child.pid) for child in surface.stack.children.values() if child.pid]

    async def used() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in processes)

    before, began = await used(), monotonic()
    shown = []
    while monotonic() - began < 6:
        shown.append((await answered(surface, "GET", f"{MONITORING}/stats"))["cpuUsage"])
    percent = 100 * (await used() - before) / (monotonic() - began)
    assert percent / 5 < max(shown) < percent * 5


async def test_health_with_its_components(surface: Running) -> None:
    words = {"healthy", "degraded", "unhealthy"}
    brief = {"status": words, "timestamp": is_time, "uptime": within(0, 7_200), "version": str}

    async def known() -> Any:
        found = (await ask(surface, "GET", "/api/health/detailed")).json
        return found if "adapters" in found["components"] else None

    detailed = await eventually(known, within=20, what="the monitor has looked at the components")
    components = {"database": COMPONENT, "s3": COMPONENT, "adapters": dict, "pollingService": COMPONENT}
    # Milliseconds: a request over the network of this machine takes some.
    times = [detailed["components"][name]["responseTime"] for name in ("database", "s3")]
    assert lacking([within(0.2, 5_000)], times) == []
    assert lacking(brief, (await ask(surface, "GET", "/api/health")).json) == []
    assert lacking({**brief, "components": components}, detailed) == []
    assert lacking([COMPONENT], list(detailed["components"]["adapters"].values())) == []


@pytest.mark.parametrize(
    ("preset", "size"),
    [("fast", (512, 384)), ("standard", (1024, 768)), ("high", (2048, 1536)), ("pollo-optimized", (1920, 1080))],
)
async def test_presets(surface: Running, preset: str, size: tuple[int, int]) -> None:
    body = {
        "content": base64.b64encode(_picture()).decode(),
        "config": {"preset": preset, "output": {"kind": "base64"}},
    }
    found = await answered(surface, "POST", "/api/external/images/preprocess", body)
    assert (found["width"], found["height"]) == size


async def test_models(surface: Running) -> None:
    found = (await answered(surface, "GET", "/api/external/models"))["models"]
    assert {"flux-pro", "flux-dev", "dall-e-3"} <= {one["identifier"] for one in found}


async def test_the_polling_interface(surface: Running) -> None:
    poller = PollingServiceStub(surface.channel("poller"))
    generation_id = await surface.create("flux-dev", simulated("followed", task_seconds=0.3))
    generation = await surface.ended(generation_id)
    assert generation.status == SUCCESS
    asked = poller_pb2.GetTaskStatusRequest(provider_id="bfl", task_id=generation.provider_task_id)
    assert (await poller.GetTaskStatus(asked, timeout=60)).task.state == poller_pb2.TASK_STATE_SUCCESS
    added = await poller.AddTask(poller_pb2.AddTaskRequest(generation_id=generation_id), timeout=60)
    assert not added.created
    started = await surface.create("flux-dev", simulated("removed", task_seconds=600))

    async def accepted() -> str:
        return str((await surface.get(started)).provider_task_id)

    task_id = await eventually(accepted, within=20, what="the provider has the task")
    removed = poller_pb2.RemoveTaskRequest(provider_id="bfl", task_id=task_id)
    assert (await poller.RemoveTask(removed, timeout=60)).removed
    asked.task_id = task_id
    assert (await poller.GetTaskStatus(asked, timeout=60)).task.state == poller_pb2.TASK_STATE_CANCELLED
    ended_task = poller_pb2.RemoveTaskRequest(provider_id="bfl", task_id=generation.provider_task_id)
    assert not (await poller.RemoveTask(ended_task, timeout=60)).removed
