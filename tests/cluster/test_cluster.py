"""The rendered manifests at work: nothing is lost, billed twice or failed for clients, whatever rolls or dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from libs.client.client import Client
from tests.support.cluster.cluster import GATEWAY_GRPC, SERVICES, Cluster
from tests.support.cluster.load import Load
from tests.support.cluster.pods import Pod
from tests.support.simulator import simulated
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_request_goes_its_whole_way(cluster: Cluster) -> None:
    async with Client(GATEWAY_GRPC, cluster.admin_key) as client:
        (file,) = await client.generate("flux-pro", simulated("cluster", task_seconds=0.1), timeout_seconds=60)
    assert file.content


@pytest.mark.timeout(600)
async def test_everything_is_rolled_twice_under_load(cluster: Cluster) -> None:
    names = (*SERVICES, "pgbouncer")
    codes: Counter[tuple[str, int]] = Counter()
    async with Load(cluster) as load:
        for name in names:
            codes.update((name, code) for code in await cluster.roll(name))
        # Now as a new version does that changes all of them.
        for name, found in zip(names, await asyncio.gather(*map(cluster.roll, names)), strict=True):
            codes.update((name, code) for code in found)
    accounts, failures = await load.accounts(), load.promises.failures
    print(f"rolled twice under load: {accounts}; exits {dict(codes)}; failed at the client {failures}")
    assert failures == []
    assert accounts.promised > 100
    assert accounts.are_kept
    # The shell that starts it passes on that it was told to stop.
    assert {code for name, code in codes if name != "pgbouncer"} == {0}


@pytest.mark.timeout(400)
async def test_pods_die_under_load(cluster: Cluster) -> None:
    async with Load(cluster) as load:
        for name in ("gateway", "poller", "pgbouncer"):
            pod = cluster.of(name)[0]
            restarts = pod.restarts
            pod.kill()

            async def restarted(pod: Pod = pod, restarts: int = restarts) -> bool:
                return pod.restarts > restarts and pod.is_ready

            await eventually(restarted, within=60, what=f"{pod.name} is back")
    accounts = await load.accounts()
    print(f"killed one by one under load: {accounts}; failed at the client {load.promises.failures}")
    # A client that was connected to what died may have to ask again; nobody loses or pays for anything.
    assert accounts.lost == accounts.billed_twice == 0
    assert accounts.not_succeeded <= accounts.promised * 0.1
    assert accounts.promised > 20


async def test_a_changed_catalog_arrives_without_a_restart(cluster: Cluster) -> None:
    restarts = {pod.name: pod.restarts for pod in cluster.pods}

    def with_another(catalog: dict[str, Any]) -> None:
        catalog["models"]["flux-pro-again"] = catalog["models"]["flux-pro"]

    cluster.configure(with_another)
    async with Client(GATEWAY_GRPC, cluster.admin_key) as client:

        async def has_arrived() -> bool:
            return "flux-pro-again" in {model.identifier for model in await client.models()}

        await eventually(has_arrived, within=20, what="the gateway offers the new model")
        (file,) = await client.generate("flux-pro-again", simulated("new", task_seconds=0.1), timeout_seconds=60)
    assert file.content
    assert {pod.name: pod.restarts for pod in cluster.pods} == restarts
