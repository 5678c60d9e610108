"""From the previous schema to this one, at work: both versions run side by side, and nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from libs.client.client import Client
from libs.common.database import migrate
from sandbox.launcher import Stack
from sandbox.plan import Plan
from sandbox.processes import Start
from tests.conftest import stack_plan
from tests.support.infrastructure import Infrastructure
from tests.support.previous import PreviousVersion, previous_version
from tests.support.promises import Promises
from tests.support.running import Running
from tests.support.simulator import Simulator
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

CLIENTS = 4
_SHARED = ("_KEY", "_SECRET", "_TOKEN")


class _Clients:
    """Each with one request under way at a time, at the gateways that there are."""

    def __init__(self, key: str, address: str) -> None:
        self.addresses = [address]
        self.promises = Promises()
        self._key = key
        self._stopping = False
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(CLIENTS)]

    async def _run(self, number: int) -> None:
        while not self._stopping:
            number += 1
            address = self.addresses[number % len(self.addresses)]
            async with Client(address, self._key) as client:
                await self.promises.followed(client, self.promises.prompt(task_seconds=0.3), where=address)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def have_ended(self, more: int) -> None:
        """Wait until so many more have come to their ends."""
        goal = self.promises.ends.total() + more

        async def so() -> bool:
            assert not self.promises.failures, self.promises.failures
            return self.promises.ends.total() >= goal

        await eventually(so, within=40, what=f"{goal} have ended")


@pytest.fixture
async def before(tmp_path: Path) -> PreviousVersion:
    (tmp_path / "code").mkdir()
    found = await asyncio.to_thread(previous_version, tmp_path / "code")
    if found is None:
        pytest.skip("there is no version before the newest migration here")
    return found


@asynccontextmanager
async def _started(plan: Plan, start: Start) -> AsyncIterator[Stack]:
    stack = Stack(plan, start=start)
    await asyncio.to_thread(stack.start)
    try:
        yield stack
    finally:
        await asyncio.to_thread(stack.cut_off)


def _address(stack: Stack) -> str:
    return f"127.0.0.1:{stack.plan.ports.grpc['gateway']}"


@pytest.mark.timeout(400)
async def test_both_versions_run_on_the_new_schema(
    shared: Infrastructure, simulator: Simulator, tmp_path: Path, before: PreviousVersion
) -> None:
    folders = [tmp_path / "old", tmp_path / "new"]
    for folder in folders:
        folder.mkdir()
    url = shared.postgres.create_database("upgrade")
    async with AsyncExitStack() as stacks:
        stacks.callback(shared.postgres.drop_database, "upgrade")
        plan = replace(stack_plan(shared, folders[0], url, settings={}), schema=before.revision)
        old = await stacks.enter_async_context(_started(plan, before.start))
        clients = _Clients(old.admin_key, _address(old))
        await clients.have_ended(10)
        await asyncio.to_thread(migrate.upgrade, url)
        await clients.have_ended(10)

        secrets = {name: value for name, value in old.environment.items() if name.endswith(_SHARED)}
        plan = stack_plan(shared, folders[1], url, settings=secrets)
        new = await stacks.enter_async_context(_started(plan, shared.nursery.start))
        clients.addresses.append(_address(new))
        await clients.have_ended(30)
        shares = [await _claimed(stack) for stack in (old, new)]

        # As a balancer does: nobody is led to it any more when it stops.
        clients.addresses.remove(_address(old))
        await clients.have_ended(3 * CLIENTS)
        await asyncio.to_thread(old.stop)
        await clients.have_ended(10)
        await clients.stop()
        accounts = await clients.promises.accounts(url, simulator.url)
    print(
        f"from {before.commit} ({before.revision}): {accounts}, {dict(clients.promises.ends)}, "
        f"failed at the client {clients.promises.failures}; claimed by the old and the new version {shares}"
    )
    assert clients.promises.failures == []
    assert accounts.are_kept
    assert min(shares) > 0


async def _claimed(stack: Stack) -> float:
    running = Running(stack)
    try:
        return await running.metric("dispatcher", "darkroom_claimed_total")
    finally:
        await running.close()
