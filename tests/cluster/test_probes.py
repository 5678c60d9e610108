"""What each service answers its probes in each state, and what the kubelet makes of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa

from tests.support.cluster.cluster import SERVICES, Cluster
from tests.support.cluster.pods import Pod, asked
from tests.support.waiting import eventually, promptly

pytestmark = pytest.mark.asyncio(loop_scope="session")
READY = {"readiness": "SERVING", "liveness": "SERVING"}
NOT_READY = {"readiness": "NOT_SERVING", "liveness": "SERVING"}
NOT_ALIVE = {"readiness": "NOT_SERVING", "liveness": "NOT_SERVING"}
SILENT = {"readiness": "UNREACHABLE", "liveness": "UNREACHABLE"}


async def _answers(pod: Pod) -> dict[str, str]:
    (container,) = pod.workload.containers
    probes = {kind: probe for kind, probe in container.probes.items() if kind != "startup"}
    found = await asyncio.gather(*(asked(pod.address, probe) for probe in probes.values()))
    return dict(zip(probes, found, strict=True))


async def _all_answer(pods: Mapping[str, Pod], expected: Mapping[str, str], *, within: float, what: str) -> None:
    async def so() -> bool:
        return all([await _answers(pod) == expected for pod in pods.values()])

    await promptly(so, within=within, what=what)
    print(f"{what}: {expected}")


@asynccontextmanager
async def _locked(url: str, table: str) -> AsyncIterator[None]:
    """Nobody gets through to a table meanwhile."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    connection = await asyncio.to_thread(engine.connect)
    try:
        await asyncio.to_thread(connection.execute, sa.text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        yield
    finally:
        await asyncio.to_thread(connection.close)


@pytest.mark.timeout(400)
async def test_what_each_service_answers(cluster: Cluster) -> None:
    settings = {"DARKROOM_STUCK_SECONDS": "2"}
    made = await asyncio.gather(*(cluster.add(name, settings=settings) for name in SERVICES))
    pods = dict(zip(SERVICES, made, strict=True))
    for name, pod in pods.items():
        heard = [answer for kind, answer in pod.heard if kind == "startup"]
        print(f"{name} at its start: {', '.join(heard)}; then readiness: SERVING")
        assert heard[-1] == "SERVING"
    await _all_answer(pods, READY, within=5, what="when ready")

    async with _locked(cluster.database_url, "service_instances"):
        await _all_answer(pods, NOT_ALIVE, within=30, what="with a loop that is stuck while the database answers")

    # A restart mends it: they are probed ten times as often as the manifests say, so it comes within seconds.
    async def restarted() -> bool:
        return all(pod.restarts > 0 for pod in pods.values())

    await eventually(restarted, within=60, what="all were started anew")
    await _all_answer(pods, READY, within=60, what="started anew")
    restarts = {pod.name: pod.restarts for pod in cluster.pods}

    await asyncio.to_thread(cluster.shared.postgres.stop)
    await _all_answer(pods, NOT_READY, within=30, what="with the database gone")
    await asyncio.to_thread(cluster.shared.postgres.start)
    await cluster.all_ready(within=60)
    await _all_answer(pods, READY, within=60, what="with the database back")
    assert {pod.name: pod.restarts for pod in cluster.pods} == restarts, "a database that is away restarts nobody"

    leaving = [asyncio.create_task(cluster.remove(pod)) for pod in pods.values()]
    await _all_answer(pods, NOT_READY, within=4, what="while draining")
    assert await asyncio.gather(*leaving) == [[0]] * len(pods)


@pytest.mark.timeout(200)
async def test_a_process_that_answers_nothing_is_started_anew(cluster: Cluster) -> None:
    pod = await cluster.add("poller", grace_seconds=2)
    assert pod.restarts == 0
    pod.send(signal.SIGSTOP)
    await _all_answer({"poller": pod}, SILENT, within=10, what="a process that stands still")

    async def restarted() -> bool:
        return pod.restarts == 1 and pod.is_ready

    await eventually(restarted, within=90, what="it was started anew")
    assert await _answers(pod) == READY
    await cluster.remove(pod)
