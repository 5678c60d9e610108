"""The database is lost and comes back from its backup, under load."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2
from pydantic import SecretStr

from libs.common.catalog import load
from libs.common.settings import Settings
from services.dispatcher.restored import StillRunning, doubt
from tests.conftest import StartStack
from tests.support.backups import Backup
from tests.support.promises import Promises
from tests.support.rows import execute, opened, rows
from tests.support.running import SUCCESS, Running
from tests.support.simulator import Simulator
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_BETWEEN_SECONDS = 0.05
PENDING = gateway_pb2.GENERATION_STATUS_PENDING
UNSPECIFIED = gateway_pb2.UNCERTAIN_SUBMIT_POLICY_UNSPECIFIED
ATTACHED = gateway_pb2.SUBMISSION_RESOLUTION_ATTACHED
RESUBMIT = gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT
MODELS = ("flux-pro", "gpt-image-1", "dall-e-3")


class _Load:
    """Hands in one after the other. `refused`: how often it was told to come again."""

    def __init__(self, running: Running) -> None:
        self.promises = Promises()
        self.refused = 0
        self._running = running
        self._stopping = False

    async def run(self) -> None:
        for number in itertools.count():
            if self._stopping:
                return
            prompt = self.promises.prompt(task_seconds=1.0)
            try:
                generation_id = await self._running.create(MODELS[number % 3], prompt)
                self.promises.prompts[generation_id] = prompt
                await asyncio.sleep(_BETWEEN_SECONDS)
            except grpc.aio.AioRpcError as error:
                assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}, error
                self.refused += 1
                await asyncio.sleep(0.2)

    def stop(self) -> None:
        self._stopping = True

    async def have_been_handed_in(self, more: int) -> None:
        goal = len(self.promises.prompts) + more

        async def so() -> bool:
            return len(self.promises.prompts) >= goal

        await eventually(so, within=30, what=f"{goal} were handed in")


@pytest.fixture
async def backed_up(start_stack: StartStack, tmp_path: Path) -> AsyncIterator[tuple[Running, Backup]]:
    running = await start_stack(own_postgres=True)
    assert running.stack.postgres is not None
    backup = Backup(running.stack.postgres, tmp_path / "backup")
    yield running, backup
    await asyncio.to_thread(backup.close)


@pytest.mark.timeout(300)
async def test_what_was_promised_is_in_the_backup_and_goes_on(
    backed_up: tuple[Running, Backup], simulator: Simulator
) -> None:
    running, backup = backed_up
    url = running.stack.environment["DARKROOM_DATABASE_URL"]
    load = _Load(running)
    task = asyncio.create_task(load.run())
    try:
        await load.have_been_handed_in(10)
        await asyncio.to_thread(backup.follow)
        await asyncio.to_thread(backup.take)
        await load.have_been_handed_in(30)
        states = await _states(url)
        await asyncio.to_thread(running.stack.kill, "postgres")
        promised = len(load.promises.prompts)
        await asyncio.to_thread(backup.restore)
        await load.have_been_handed_in(5)
        load.stop()
        await task
        await _all_succeed(running, load.promises)
    finally:
        load.stop()
    accounts = await load.promises.accounts(url, simulator.url)
    under_way = sum(count for state, count in states.items() if state not in {"SUCCESS", "FAILED", "CANCELLED"})
    print(
        f"{promised} were promised when the database was lost, {under_way} of them under way ({dict(states)}): "
        f"{accounts}; refused meanwhile {load.refused}"
    )
    assert under_way > 0
    assert accounts.are_kept
    # Who was refused as the database went may have been taken in all the same: that is what idempotency keys are for.
    bills = await simulator.bills()
    assert len({bill["prompt"] for bill in bills}) == len(bills)
    assert 0 <= len(bills) - len(load.promises.prompts) <= load.refused


@pytest.mark.timeout(300)
async def test_back_at_a_moment_nothing_is_billed_again(
    backed_up: tuple[Running, Backup], simulator: Simulator
) -> None:
    running, backup = backed_up
    promises = await _submitted_since(running, backup, "moment")
    *uncertain, again = promises.prompts
    assert len(await simulator.bills()) == len(promises.prompts)
    for part in ("dispatcher", "postgres"):
        await asyncio.to_thread(running.stack.kill, part)
    await asyncio.to_thread(backup.restore, "moment")
    await eventually(lambda: _all_stand(running, promises, PENDING), within=60, what="it is the moment again")
    with pytest.raises(StillRunning):
        await _doubted(running)
    # As if a minute had passed since the dispatcher last said that it ran.
    async with opened(running.stack.environment["DARKROOM_DATABASE_URL"]) as database:
        await execute(database, "UPDATE service_instances SET seen_at = seen_at - interval '1 minute'")
    assert await _doubted(running) == len(uncertain)
    assert await _doubted(running) == 0
    await _start_dispatcher(running)
    assert (await running.ended(again, within=60)).status == SUCCESS
    bills = Counter(bill["prompt"] for bill in await simulator.bills())
    assert bills == dict.fromkeys(promises.prompts.values(), 1) | {promises.prompts[again]: 2}
    print(f"submitted since the moment: {len(uncertain)} uncertain, billed twice 0; sent again as was asked for 1")

    failed = await running.get(uncertain[0])
    assert failed.error.code == common_pb2.ERROR_CODE_SUBMISSION_UNCERTAIN
    (bill,) = await simulator.bills(promises.prompts[failed.id])
    facts = {"task_id": bill["task_id"], "check_url": bill.get("check_url", "")}
    continued = await running.resolve(str(failed.error.details["submission_id"]), ATTACHED, **facts)
    assert (await running.ended(continued, within=60)).status == SUCCESS


async def _submitted_since(running: Running, backup: Backup, moment: str) -> Promises:
    """Requests that waited at that moment, and have succeeded since. The last may be sent again in doubt."""
    promises = Promises()
    wanted = [(model, UNSPECIFIED) for model in MODELS for _ in range(3)] + [("flux-pro", RESUBMIT)]
    await asyncio.to_thread(backup.follow)
    await asyncio.to_thread(backup.take)
    await asyncio.to_thread(running.stack.kill, "dispatcher")
    for model, when_uncertain in wanted:
        prompt = promises.prompt(task_seconds=0.2)
        promises.prompts[await running.create(model, prompt, when_uncertain=when_uncertain)] = prompt
    await asyncio.to_thread(backup.mark, moment)
    await _start_dispatcher(running)
    await _all_succeed(running, promises)
    return promises


async def _all_succeed(running: Running, promises: Promises) -> None:
    for generation_id in promises.prompts:
        assert (await running.ended(generation_id, within=60)).status == SUCCESS


async def _all_stand(running: Running, promises: Promises, status: int) -> bool:
    try:
        return all([(await running.get(one)).status == status for one in promises.prompts])
    except grpc.aio.AioRpcError:
        return False


async def _doubted(running: Running) -> int:
    settings = Settings(database_url=SecretStr(running.stack.environment["DARKROOM_DATABASE_URL"]))
    return await doubt(settings, load(Path(running.stack.environment["DARKROOM_CATALOG"])), does_it=True)


async def _start_dispatcher(running: Running) -> None:
    await asyncio.to_thread(running.stack.start_service, "dispatcher")
    await asyncio.to_thread(running.stack.wait_until_ready, "dispatcher")


async def _states(url: str) -> Counter[str]:
    async with opened(url) as database:
        found = await rows(database, "SELECT state, count(*) FROM generation_requests GROUP BY 1")
    return Counter({row["state"]: row["count"] for row in found})
