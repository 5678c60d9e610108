"""The real stack with experiments: two models beside each other, a gateway with many, and a million generations."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import psycopg2
from darkroom.experiments.v1 import experiments_pb2
from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceStub
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from google.protobuf.json_format import MessageToDict, ParseDict

from bench.gateway.load import GrpcClients, load
from bench.place import environment
from libs.client.channel import open_channel
from libs.common.settings import ServiceName
from sandbox.launcher import Stack
from sandbox.plan import Plan, Ports
from sandbox.simulators import CONTROL

Tell = Callable[[str], None]
PLOTS = [experiments_pb2.PLOT_INTERVALS, experiments_pb2.PLOT_EFFECT, experiments_pb2.PLOT_ALLOCATION]
_ALL: tuple[ServiceName, ...] = ("gateway", "dispatcher", "poller", "experiments")
_REFRESH_SECONDS = 0.2
# By the simulator: it fails a little more often.
_FAULT = '{"operation": "result", "kind": "failed", "probability": %s}'
_SIMULATED = '{prompt} [sim {"task_seconds": 0.3, "faults": [' + _FAULT + "]}]"
_GOOD, _WORSE = _SIMULATED % 0.005, _SIMULATED % 0.025


@dataclass(slots=True)
class Running:
    """A stack that runs, and how it is asked."""

    stack: Stack
    gateway: GenerationServiceStub
    experiments: ExperimentServiceStub

    async def started(self, described: dict[str, Any]) -> experiments_pb2.Experiment:
        """An experiment that runs, and that the gateway knows of."""
        request = ParseDict(described, experiments_pb2.CreateExperimentRequest())
        made = (await self.experiments.CreateExperiment(request, timeout=30)).experiment
        await self.experiments.StartExperiment(experiments_pb2.StartExperimentRequest(id=made.id), timeout=30)
        await asyncio.sleep(5 * _REFRESH_SECONDS)
        return made

    async def results(self, experiment_id: str, **fields: Any) -> experiments_pb2.GetResultsResponse:
        """What is known by now."""
        request = experiments_pb2.GetResultsRequest(id=experiment_id, **fields)
        return await self.experiments.GetResults(request, timeout=60)

    async def behave(self, **behaviour: Any) -> None:
        """Let the simulated providers behave so."""
        url = f"http://127.0.0.1:{self.stack.plan.ports.simulators}{CONTROL}/behaviour"
        async with aiohttp.ClientSession() as session, session.put(url, json=behaviour) as reply:
            reply.raise_for_status()


@asynccontextmanager
async def running(folder: Path, services: tuple[ServiceName, ...] = _ALL) -> AsyncIterator[Running]:
    """The stack on a fresh folder, without the limits of accounts."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = {
        "DARKROOM_LOG_LEVEL": "error",
        "DARKROOM_EXPERIMENT_REFRESH_SECONDS": str(_REFRESH_SECONDS),
        "DARKROOM_DATABASE_STATEMENT_TIMEOUT_SECONDS": "60",
        "DARKROOM_RPC_TIMEOUT_SECONDS": "60",
    }
    stack = Stack(
        Plan(folder, Ports.free(), environment=environment(), settings=settings, adjust=_roomy, services=services)
    )
    await asyncio.to_thread(stack.start)
    ports, token = stack.plan.ports, stack.environment["DARKROOM_SERVICE_TOKEN"]
    edge = open_channel(f"127.0.0.1:{ports.grpc['gateway']}", stack.admin_key)
    inner = open_channel(f"127.0.0.1:{ports.grpc['experiments']}", token)
    try:
        yield Running(stack, GenerationServiceStub(edge), ExperimentServiceStub(inner))
    finally:
        await edge.close()
        await inner.close()
        await asyncio.to_thread(stack.stop)


def _roomy(catalog: dict[str, Any]) -> None:
    for provider in catalog["providers"].values():
        limits = provider.setdefault("limits", {})
        for name in ("concurrent_tasks", "requests_per_minute", "requests_per_second"):
            limits.pop(name, None)
        provider["breaker"] = {"minimum_calls": 1_000_000}
    for model in catalog["models"].values():
        model["polling"] = {"strategy": "fixed", "interval_seconds": 0.5}


async def two_models(folder: Path, each: int, tell: Tell) -> experiments_pb2.GetResultsResponse:
    """A cheaper model beside another, so many requests each; the pictures are left in the folder."""
    async with running(folder / "two-models") as found:
        await found.behave(active_tasks_limit=1_000)
        experiment = await found.started(
            {
                "name": "Is flux-dev good enough?",
                "hypothesis": "Nobody misses the dearer model, and it costs more than a third less.",
                "variants": [
                    {"name": "pro", "modelIdentifier": "flux-pro", "prompt": _GOOD},
                    {"name": "dev", "modelIdentifier": "flux-dev", "prompt": _WORSE},
                ],
                "metrics": [
                    {"name": "avg_cost", "type": "METRIC_ROLE_PRIMARY", "goal": "METRIC_GOAL_MINIMIZE"},
                    {
                        "name": "success_rate",
                        "type": "METRIC_ROLE_GUARDRAIL",
                        "goal": "METRIC_GOAL_MAXIMIZE",
                        "margin": 0.05,
                    },
                    {"name": "avg_duration", "type": "METRIC_ROLE_SECONDARY", "goal": "METRIC_GOAL_MINIMIZE"},
                ],
            }
        )
        # Users in the order in which they come, until each variant has as many as are wanted.
        counts: dict[str, int] = dict.fromkeys((variant.id for variant in experiment.variants), 0)
        number = 0
        while min(counts.values()) < each:
            users = [f"user {number + place}" for place in range(50)]
            number += len(users)
            made = await asyncio.gather(*(_create(found.gateway, user) for user in users))
            for variant_id in made:
                counts[variant_id] += 1
        tell(f"{sum(counts.values())} requests sent")
        response = await _settled(found, experiment.id)
        for plot in response.plots:
            name = experiments_pb2.Plot.Name(plot.plot).removeprefix("PLOT_").lower()
            (folder / f"{name}.svg").write_text(plot.svg)
        return response


async def _create(gateway: GenerationServiceStub, user: str) -> str:
    request = gateway_pb2.CreateGenerationRequest(
        model_identifier="flux-pro", prompt=f"a red apple for {user}", user_id=user
    )
    request.parameters.update({"size_or_ratio": "256x256"})
    made = await gateway.CreateGeneration(request, timeout=30)
    got = await gateway.GetGeneration(gateway_pb2.GetGenerationRequest(id=made.id), timeout=30)
    return got.generation.variant_id


async def _settled(found: Running, experiment_id: str) -> experiments_pb2.GetResultsResponse:
    """The results once all have ended."""
    while True:
        response = await found.results(experiment_id, plots=PLOTS, segment_by="user")
        if not sum(count.in_flight for count in response.counts):
            return response
        await asyncio.sleep(0.5)


async def throughput(folder: Path, seconds: float, rounds: int, tell: Tell) -> list[tuple[float, float, float]]:
    """CreateGeneration a second: without experiments, with twenty, and the ratio; round by round.

    The twenty share a layer, five percent each, so that each request takes part in one.
    """
    figures = []
    async with running(folder / "throughput", ("gateway", "experiments")) as found:
        address = f"127.0.0.1:{found.stack.plan.ports.grpc['gateway']}"
        ids = [await _one_of_twenty(found, number) for number in range(20)]
        for number in range(rounds):
            without = await _measured(address, found.stack.admin_key, seconds)
            for experiment_id in ids:
                await found.experiments.StartExperiment(experiments_pb2.StartExperimentRequest(id=experiment_id))
            await asyncio.sleep(5 * _REFRESH_SECONDS)
            inside = await _measured(address, found.stack.admin_key, seconds)
            for experiment_id in ids:
                await found.experiments.PauseExperiment(experiments_pb2.PauseExperimentRequest(id=experiment_id))
            await asyncio.sleep(5 * _REFRESH_SECONDS)
            figures.append((without, inside, inside / without))
            tell(f"round {number + 1}: {without:,.0f} without, {inside:,.0f} with twenty")
    return figures


async def _one_of_twenty(found: Running, number: int) -> str:
    described = {
        "name": f"experiment {number}",
        "layer": "all",
        "targeting": {"trafficPercent": 5},
        "variants": [
            {"name": "pro", "modelIdentifier": "flux-pro"},
            {"name": "dev", "modelIdentifier": "flux-dev", "prompt": "{prompt}, in style", "parameters": {"seed": 9}},
        ],
        "metrics": [{"name": "avg_cost", "type": "METRIC_ROLE_PRIMARY", "goal": "METRIC_GOAL_MINIMIZE"}],
    }
    request = ParseDict(described, experiments_pb2.CreateExperimentRequest())
    return (await found.experiments.CreateExperiment(request, timeout=30)).experiment.id


async def _measured(address: str, key: str, seconds: float) -> float:
    clients = GrpcClients(address, key)
    try:
        return (await load(clients.send, concurrency=64, seconds=seconds, begin=lambda: None)).per_second
    finally:
        await clients.close()


_ROWS = """
INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt, number_of_outputs,
    when_uncertain, request_id, owner, user_id, labels, outputs, error, cost_usd, created_at, ended_at, experiment_id,
    variant_id, experiment_version)
SELECT 'gen_' || lpad(i::text, 26, '0'), CASE WHEN i %% 50 = 0 THEN 'FAILED' ELSE 'SUCCESS' END, 'flux-pro', 'bfl',
    'image', 'a red apple', 1, 'fail', 'req_' || i, 'shop', CASE WHEN i %% 2 = 0 THEN 'user-' || (i / 10) END,
    jsonb_build_object('plan', CASE WHEN i %% 3 = 0 THEN 'pro' ELSE 'free' END),
    '[]'::jsonb, CASE WHEN i %% 50 = 0 THEN jsonb_build_object('code', 'TASK_FAILED') END,
    CASE WHEN i %% 50 = 0 THEN 0 ELSE 0.04 + (i %% 7) * 0.001 END, now() - interval '1 hour',
    now() - interval '1 hour' + make_interval(secs => 2 + (i::bigint * 7919) %% 90), %(experiment)s,
    (%(variants)s::text[])[1 + (hashtext('x' || (CASE WHEN i %% 2 = 0 THEN i / 10 ELSE -i END)::text) & 1)], 1
FROM generate_series(%(first)s, %(last)s) AS i"""
# What the trigger writes when a generation ends.
_ENDED = """
INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind, outcome, seconds,
    cost_usd)
SELECT experiment_id, variant_id, experiment_version,
    experiment_unit(owner, user_id), owner, user_id, 'ended', state,
    extract(epoch FROM ended_at - created_at), cost_usd
FROM generation_requests WHERE id >= 'gen_' || lpad(%(first)s::text, 26, '0')
    AND id <= 'gen_' || lpad(%(last)s::text, 26, '0')"""
_PART = 100_000


@dataclass(frozen=True, slots=True)
class Million:
    """Seconds."""

    generations: int
    fold_seconds: float
    results_seconds: list[float]
    plots_seconds: float
    segments_seconds: float


async def million(folder: Path, generations: int, tell: Tell) -> Million:
    """Results of so many generations: half of them by users with five each, half without a user."""
    async with running(folder / "million", ("gateway", "experiments")) as found:
        experiment = await found.started(
            {
                "name": "a million",
                "variants": [
                    {"name": "pro", "modelIdentifier": "flux-pro"},
                    {"name": "dev", "modelIdentifier": "flux-dev"},
                ],
                "metrics": [
                    {"name": "avg_duration", "type": "METRIC_ROLE_PRIMARY", "goal": "METRIC_GOAL_MINIMIZE"},
                    {"name": "success_rate", "type": "METRIC_ROLE_GUARDRAIL", "goal": "METRIC_GOAL_MAXIMIZE"},
                    {"name": "p95_duration", "type": "METRIC_ROLE_SECONDARY", "goal": "METRIC_GOAL_MINIMIZE"},
                ],
            }
        )
        began = perf_counter()
        url = found.stack.environment["DARKROOM_DATABASE_URL"].replace("postgresql+psycopg2", "postgresql")
        await asyncio.to_thread(_fill, url, experiment, generations, tell)
        while True:
            response = await found.results(experiment.id)
            ended = sum(count.generations - count.in_flight for count in response.counts)
            if ended == generations:
                break
            await asyncio.sleep(1)
        fold_seconds = perf_counter() - began
        results = [await _timed(found, experiment.id) for _ in range(10)]
        plots = await _timed(found, experiment.id, plots=PLOTS)
        segments = await _timed(found, experiment.id, segment_by="label:plan")
        return Million(generations, fold_seconds, results, plots, segments)


def _fill(url: str, experiment: experiments_pb2.Experiment, generations: int, tell: Tell) -> None:
    connection = psycopg2.connect(url)
    try:
        for first in range(0, generations, _PART):
            values = {
                "first": first,
                "last": min(first + _PART, generations) - 1,
                "experiment": experiment.id,
                "variants": [variant.id for variant in experiment.variants],
            }
            with connection, connection.cursor() as cursor:
                cursor.execute(_ROWS, values)
                cursor.execute(_ENDED, values)
            tell(f"{min(first + _PART, generations):,} generations written")
    finally:
        connection.close()


async def _timed(found: Running, experiment_id: str, **fields: Any) -> float:
    began = perf_counter()
    await found.results(experiment_id, **fields)
    return perf_counter() - began


def shown(response: experiments_pb2.GetResultsResponse) -> dict[str, Any]:
    """The answer without its pictures, as JSON has it."""
    answer = experiments_pb2.GetResultsResponse()
    answer.CopyFrom(response)
    del answer.plots[:]
    answer.ClearField("experiment")
    return MessageToDict(answer)
