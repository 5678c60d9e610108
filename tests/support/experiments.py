"""Experiments for tests: planned, started, and looked at through the running stack."""

from __future__ import annotations

import itertools
from typing import Any

from darkroom.experiments.v1 import experiments_pb2
from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceStub
from google.protobuf.json_format import ParseDict

from libs.common.database.engine import Database
from libs.common.experiments.allocation import bucket_of, unit_of
from libs.common.settings import ServiceName
from tests.support.http import call
from tests.support.rows import rows
from tests.support.running import Running
from tests.support.waiting import eventually

SERVICES: tuple[ServiceName, ...] = ("gateway", "dispatcher", "poller", "experiments")
SETTINGS = {"DARKROOM_EXPERIMENT_REFRESH_SECONDS": "0.1", "DARKROOM_EXPERIMENT_ADAPT_SECONDS": "0.3"}
CHEAPER: dict[str, Any] = {
    "name": "Is the cheaper model good enough?",
    "variants": [
        {"name": "pro", "modelIdentifier": "flux-pro"},
        {"name": "dev", "modelIdentifier": "flux-dev"},
    ],
    "metrics": [
        {"name": "avg_cost", "type": "METRIC_ROLE_PRIMARY", "goal": "METRIC_GOAL_MINIMIZE"},
        {"name": "success_rate", "type": "METRIC_ROLE_GUARDRAIL", "goal": "METRIC_GOAL_MAXIMIZE", "margin": 0.1},
    ],
}


def create_request(**changes: Any) -> experiments_pb2.CreateExperimentRequest:
    """The request for an experiment, as its JSON has it."""
    return ParseDict({**CHEAPER, **changes}, experiments_pb2.CreateExperimentRequest())


def stub(running: Running) -> ExperimentServiceStub:
    """The experiments service, as another service calls it."""
    return ExperimentServiceStub(running.channel("experiments"))


async def started(running: Running, **changes: Any) -> experiments_pb2.Experiment:
    """An experiment that runs, and that the gateway knows of."""
    service = stub(running)
    made = (await service.CreateExperiment(create_request(**changes), timeout=60)).experiment
    await service.StartExperiment(experiments_pb2.StartExperimentRequest(id=made.id), timeout=60)
    await gateway_knows(running)
    return (await service.GetExperiment(experiments_pb2.GetExperimentRequest(id=made.id), timeout=60)).experiment


async def gateway_knows(running: Running) -> None:
    """Wait until the gateway has asked again twice: what it asked for first may have been older."""
    before = await running.metric("gateway", "darkroom_loop_iterations_total", loop="experiments", outcome="success")

    async def asked_twice() -> bool:
        now = await running.metric("gateway", "darkroom_loop_iterations_total", loop="experiments", outcome="success")
        return now >= before + 8

    await eventually(asked_twice, within=15, what="the gateway has asked for the experiments")


async def users_of(database: Database, experiment_id: str, each: int) -> list[str]:
    """So many users of the admin key's owner for each variant, in the order in which chance would send them.

    As many of each, so that no test of the split, which is wrong once in a thousand, speaks up.
    """
    (row,) = await rows(
        database,
        "SELECT e.salt, e.buckets, k.owner FROM experiments e, api_keys k WHERE e.id = :id AND k.role = 'admin'",
        id=experiment_id,
    )
    spread = bytes(row["buckets"])
    left = dict.fromkeys(set(spread), each)
    found = []
    for number in itertools.count():
        user = f"user {number}"
        position = spread[bucket_of(experiment_id, row["salt"], unit_of(row["owner"], user))]
        if left[position]:
            left[position] -= 1
            found.append(user)
        if not any(left.values()):
            return found
    raise AssertionError("there is no end of numbers")


async def service_answers(running: Running) -> None:
    """Wait until the gateway, which may have been there first, has found the experiments service."""

    async def answers() -> bool:
        reply = await call(running.gateway_url(), "/api/admin/experiments", key=running.admin_key)
        return reply.status == 200

    await eventually(answers, within=15, what="the experiments service answers")


async def results(running: Running, experiment_id: str, **fields: Any) -> experiments_pb2.GetResultsResponse:
    """What is known of an experiment by now."""
    request = experiments_pb2.GetResultsRequest(id=experiment_id, **fields)
    return await stub(running).GetResults(request, timeout=60)
