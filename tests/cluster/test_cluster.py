"""The rendered manifests at work: nothing is lost, billed twice or failed for clients, whatever rolls or dies."""

from __future__ import annotations

from collections import Counter

import pytest

from libs.client.client import Client
from libs.common.database.engine import Database
from tests.support.cluster.cluster import GATEWAY_GRPC, SERVICES, Cluster
from tests.support.cluster.load import Load
from tests.support.rows import rows
from tests.support.simulator import Simulator, simulated

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
    codes: Counter[tuple[str, int]] = Counter()
    async with Load(cluster) as load:
        for _ in range(2):
            for name in (*SERVICES, "pgbouncer"):
                codes.update((name, code) for code in await cluster.roll(name))
    found = await _accounts(cluster, load)
    print(f"\nrolled twice under load: {found}; exits {dict(codes)}")
    assert load.failures == []
    assert found["handed in"] > 100
    assert {name: count for name, count in found.items() if name != "handed in"} == dict.fromkeys(
        ("failed at the client", "lost", "not succeeded", "billed twice", "not billed"), 0
    )
    assert {code for name, code in codes if name != "pgbouncer"} == {0}
