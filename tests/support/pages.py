"""All pages of the console, each with something on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from darkroom.common.v1 import common_pb2
from darkroom.experiments.v1 import experiments_pb2
from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceStub
from darkroom.gateway.v1 import gateway_pb2
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common.ids import new_id
from tests.support.browser import Stage
from tests.support.closing import cancelling
from tests.support.experiments import create_request, gateway_knows, users_of
from tests.support.simulator import FAILS, simulated

LOST_REPLY = [{"operation": "submit", "kind": "reset", "after": True, "times": 1}]
PROMPTS = (
    "an owl on a bough at dusk",
    "a lighthouse in fog",
    "a red apple on linen",
    "a paper boat in the rain",
    "a fox asleep in moss",
    "a glass whale",
    "a lantern in a birch wood",
    "a city of cards",
)


async def pages(
    stage: Stage, *, prompts: Sequence[str] = PROMPTS[:2], users: int = 3, text: str = "", quick: bool = True
) -> dict[str, str]:
    """The paths of all pages by their names, once there is something on each. `text`: stands wherever people write.

    `quick`: providers answer at once, as prompts tell them to; else prompts are as people write them.
    """
    running, words = stage.running, partial(_words, text=text, quick=quick)
    made = [
        await running.create("flux-pro", words(prompt), labels={"team": f"night{text}"}, user_id="u_7")
        for prompt in prompts
    ]
    video = await running.create("kling-v1-6", words("an owl that flies"))
    failed = await running.create("flux-pro", simulated(f"a storm{text}", task_seconds=0, faults=FAILS))
    lost = await running.create(
        "flux-schnell", simulated(f"a letter lost {datetime.now(UTC)}{text}", task_seconds=0, faults=LOST_REPLY)
    )
    for one in (*made, video, failed, lost):
        await running.ended(one)
    rating = gateway_pb2.RateGenerationRequest(id=made[0], rating=4, feedback=f"lovely{text}")
    await running.gateway.RateGeneration(rating, timeout=60)
    batch = await _batch(stage, [words(f"{prompt} again") for prompt in prompts], text)
    error = await _error(stage, failed, text)
    alert = await _alert(stage, text)
    experiment = await _experiment(stage, users, text, words)
    return {
        "sign-in": "/admin/sign-in",
        "overview": "/admin",
        "generations": "/admin/generations",
        "gallery": "/admin/generations?view=gallery&status=SUCCESS",
        "generation": f"/admin/generations/{made[0]}",
        "generation-uncertain": f"/admin/generations/{lost}",
        "batches": "/admin/batches",
        "batch": f"/admin/batches/{batch}",
        "errors": "/admin/monitoring/errors?resolved=yes",
        "error": f"/admin/monitoring/errors/{error}",
        "alerts": "/admin/monitoring/alerts",
        "alert": f"/admin/monitoring/alerts/{alert}",
        "experiments": "/admin/experiments",
        "experiment-new": "/admin/experiments/new",
        "experiment": f"/admin/experiments/{experiment}",
        "models": "/admin/models",
        "playground": "/admin/playground?model=flux-pro",
        "keys": "/admin/keys?all=yes",
        "audit": "/admin/audit",
        "not-found": "/admin/nowhere",
    }


def _words(prompt: str, *, text: str, quick: bool) -> str:
    return simulated(f"{prompt}{text}", task_seconds=0) if quick else f"{prompt}{text}"


async def _batch(stage: Stage, prompts: Sequence[str], text: str) -> str:
    bad = simulated(f"a bad owl{text}", task_seconds=0, faults=[{"operation": "result", "kind": "moderated"}])
    requests = [
        gateway_pb2.CreateGenerationRequest(model_identifier="flux-dev", prompt=prompt) for prompt in (*prompts, bad)
    ]
    options = gateway_pb2.BatchOptions(max_concurrency=4)
    request = gateway_pb2.CreateBatchRequest(requests=requests, options=options)
    answer = await stage.running.gateway.CreateBatch(request, timeout=60)
    watching = gateway_pb2.WatchBatchRequest(batch_id=answer.batch_id)
    with cancelling(stage.running.gateway.WatchBatch(watching, timeout=30)) as stream:
        async for change in stream:
            if change.batch.HasField("ended_at"):
                break
    return str(answer.batch_id)


async def _error(stage: Stage, generation_id: str, text: str) -> str:
    entries = []
    for back in range(12):
        entry = monitor_pb2.ErrorEntry(
            id=new_id("log"),
            level=monitor_pb2.ERROR_LEVEL_ERROR,
            source="adapter:bfl",
            code=common_pb2.ERROR_CODE_PROVIDER_ERROR,
            message=f"The provider answered with a page of HTML{text}",
            generation_id=generation_id,
            stack=f"Traceback (most recent call last){text}",
        )
        entry.occurred_at.FromDatetime(datetime.now(UTC) - timedelta(hours=back * back % 23))
        entries.append(entry)
    stub = MonitorServiceStub(stage.running.channel("monitor"))
    await stub.LogError(monitor_pb2.LogErrorRequest(errors=entries), timeout=60)
    row = await stage.row("SELECT group_id FROM error_logs WHERE id = :id LIMIT 1", id=entries[0].id)
    return str(row["group_id"])


async def _alert(stage: Stage, text: str) -> str:
    stub = MonitorServiceStub(stage.running.channel("monitor"))
    request = monitor_pb2.SendAlertRequest(
        type=f"QUEUE_STANDS_STILL{text}"[:100],
        severity=monitor_pb2.ALERT_SEVERITY_CRITICAL,
        message=f"212 generations wait for bfl, the oldest for 7 minutes.{text}",
    )
    alert = await stub.SendAlert(request, timeout=60)
    silence = monitor_pb2.SilenceAlertsRequest(type="PROVIDER_COSTS", subject=f"kling{text}", reason=f"known{text}")
    silence.until.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    await stub.SilenceAlerts(silence, timeout=60)
    return str(alert.id)


async def _experiment(stage: Stage, users: int, text: str, words: Callable[[str], str]) -> str:
    stub = ExperimentServiceStub(stage.running.channel("experiments"))
    request = create_request(name=f"Is flux-dev good enough?{text}", hypothesis=f"It is, and cheaper.{text}")
    request.variants[1].name = f"dev{text}"[:100]
    made = (await stub.CreateExperiment(request, timeout=60)).experiment
    await stub.StartExperiment(experiments_pb2.StartExperimentRequest(id=made.id), timeout=60)
    await gateway_knows(stage.running)
    found = await users_of(stage.database, made.id, users)
    ids = await asyncio.gather(
        *(
            stage.running.create("flux-pro", words(f"a harbour in the morning, for {user}"), user_id=user)
            for user in found
        )
    )
    await asyncio.gather(*(stage.running.ended(one, within=60) for one in ids))
    await stub.PauseExperiment(experiments_pb2.PauseExperimentRequest(id=made.id), timeout=60)
    return str(made.id)
