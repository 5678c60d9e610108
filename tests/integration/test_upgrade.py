"""From the previous schema to this one, at work: both versions run side by side, and nobody notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from darkroom.gateway.v1 import gateway_pb2

from libs.client.client import Client
from libs.client.errors import DarkroomError
from libs.common.database import migrate
from libs.common.database.engine import Database
from sandbox.launcher import Stack
from tests.conftest import stack_plan
from tests.support.infrastructure import Infrastructure
from tests.support.previous import previous_version
from tests.support.rows import rows
from tests.support.running import Running
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

CLIENTS = 4


class _Clients:
    """Each with one request under way at a time, at the gateways that there are."""

    def __init__(self, key: str) -> None:
        self.addresses: list[str] = []
        self.prompts: dict[str, str] = {}
        self.ends: Counter[str] = Counter()
        self.failures: list[str] = []
        self._key = key
        self._stopping = False

    async def run(self, name: int) -> None:
        number = 0
        while not self._stopping:
            address = self.addresses[number % len(self.addresses)]
            prompt = simulated(f"upgrade {name} {number}", task_seconds=0.3)
            number += 1
            try:
                async with Client(address, self._key) as client:
                    generation_id = await client.submit("flux-pro", prompt)
                    self.prompts[generation_id] = prompt
                    generation = await client.wait(generation_id)
                    self.ends[gateway_pb2.GenerationStatus.Name(generation.status)] += 1
            except (DarkroomError, grpc.aio.AioRpcError) as error:
                self.failures.append(f"{address}: {error!r}")

    def stop(self) -> None:
        self._stopping = True

    async def have_ended(self, more: int) -> None:
        """Wait until so many more have come to their ends."""
        goal = self.ends.total() + more

        async def so() -> bool:
            assert not self.failures, self.failures
            return self.ends.total() >= goal

        await eventually(so, within=40, what=f"{goal} have ended")


@pytest.mark.timeout(400)
async def test_both_versions_run_on_the_new_schema(
    shared: Infrastructure, simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    before = await asyncio.to_thread(previous_version, tmp_path / "code")
    if before is None:
        pytest.skip("there is no history of the repository here")
    url = shared.postgres.create_database("upgrade")
    folders = [tmp_path / "old", tmp_path / "new"]
    for folder in folders:
        folder.mkdir()
    old_plan = replace(stack_plan(shared, folders[0], url, settings={}), schema=before.revision)
    old = Stack(old_plan, start=before.start)
    await asyncio.to_thread(old.start)
    clients = _Clients(old.admin_key)
    clients.addresses = [f"127.0.0.1:{old_plan.ports.grpc['gateway']}"]
    running = [asyncio.create_task(clients.run(name)) for name in range(CLIENTS)]
    stacks = [old]
    try:
        await clients.have_ended(10)
        await asyncio.to_thread(migrate.upgrade, url)
        await clients.have_ended(10)

        shared_secrets = {
            name: value for name, value in old.environment.items() if name.endswith(("_KEY", "_SECRET", "_TOKEN"))
        }
        new_plan = stack_plan(shared, folders[1], url, settings=shared_secrets)
        new = Stack(new_plan, start=shared.nursery.start)
        await asyncio.to_thread(new.start)
        stacks.append(new)
        clients.addresses.append(f"127.0.0.1:{new_plan.ports.grpc['gateway']}")
        await clients.have_ended(30)
        shares = [await _claimed(stack) for stack in stacks]

        # As a balancer does: nobody is led to it any more when it stops.
        del clients.addresses[0]
        await clients.have_ended(3 * CLIENTS)
        await asyncio.to_thread(old.stop)
        await clients.have_ended(10)
        clients.stop()
        await asyncio.gather(*running)
        database = Database(url, size=1, statement_timeout_seconds=10, application_name="test")
        states = {row["id"]: row["state"] for row in await rows(database, "SELECT id, state FROM generation_requests")}
        await database.close()
        bills = Counter([bill["prompt"] for bill in await simulator.bills()])
        print(
            f"from {before.commit} ({before.revision}): {len(clients.prompts)} handed in, {dict(clients.ends)}, "
            f"failed at the client {len(clients.failures)}; claimed by the old and the new version {shares}"
        )
        assert set(clients.ends) == {"GENERATION_STATUS_SUCCESS"}
        assert {states[generation_id] for generation_id in clients.prompts} == {"SUCCESS"}
        assert set(bills.values()) == {1}
        assert min(shares) > 0
    finally:
        clients.stop()
        for stack in stacks:
            await asyncio.to_thread(stack.cut_off)
        shared.postgres.drop_database("upgrade")


async def _claimed(stack: Stack) -> float:
    running = Running(stack)
    try:
        return await running.metric("dispatcher", "darkroom_claimed_total")
    finally:
        await running.close()
