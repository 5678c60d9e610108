"""The rendered manifests at work: nothing is lost, billed twice or failed for clients, whatever rolls or dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from libs.client.client import Client
from libs.common.database.engine import Database
from tests.support.cluster.cluster import GATEWAY_GRPC, SERVICES, Cluster
from tests.support.cluster.load import Load
from tests.support.cluster.pods import Pod
from tests.support.rows import rows
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _accounts(cluster: Cluster, load: Load) -> dict[str, int]:
    """What became of all that the clients were told an id for."""
    database = Database(cluster.database_url, size=1, statement_timeout_seconds=10, application_name="test")
    found = await rows(database, "SELECT id, state FROM generation_requests WHERE prompt LIKE 'load %'")
    await database.close()
    states = {row["id"]: row["state"] for row in found}
    bills = Counter(bill["prompt"] for bill in await Simulator(cluster.shared.simulators_url).bills())
    billed = {prompt: bills[prompt.partition(" [sim")[0]] + bills[prompt] for prompt in load.prompts.values()}
    return {
        "handed in": len(load.prompts),
        "failed at the client": len(load.failures),
        "lost": sum(
            states.get(generation_id) not in {"SUCCESS", "FAILED", "CANCELLED"} for generation_id in load.prompts
        ),
        "not succeeded": sum(states.get(generation_id) != "SUCCESS" for generation_id in load.prompts),
        "billed twice": sum(count > 1 for count in billed.values()),
        "not billed": sum(count == 0 for count in billed.values()),
    }


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
    accounts = await _accounts(cluster, load)
    print(f"rolled twice under load: {accounts}; exits {dict(codes)}; {load.failures}")
    assert load.failures == []
    assert accounts.pop("handed in") > 100
    assert accounts == dict.fromkeys(accounts, 0)
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
    accounts = await _accounts(cluster, load)
    print(f"killed one by one under load: {accounts}, {load.ends}; {load.failures}")
    # A client that was connected to what died may have to ask again; nobody loses or pays for anything.
    assert accounts["lost"] == accounts["billed twice"] == 0
    assert accounts["not succeeded"] <= accounts["handed in"] * 0.1
    assert accounts["handed in"] > 20


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
