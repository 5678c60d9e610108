"""What is answered when: readiness follows everything, liveness only what a restart mends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from libs.common.loops import Loop
from libs.common.rpc.health import LIVENESS, Readiness
from sandbox.health import health as answer_of
from tests.support.waiting import eventually

SERVING, NOT_SERVING = "SERVING", "NOT_SERVING"


class _Service:
    """A service with one loop whose turn does what a test wants, over a database that answers or does not."""

    def __init__(self, *, stuck_seconds: float = 0.05) -> None:
        self.port = 0
        self.database_fault: str | None = None
        self.hangs = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.dies = False
        self.servicer = health.aio.HealthServicer()
        self.loop = Loop("work", self._turn, interval_seconds=0.01)
        self.readiness = Readiness(
            self.servicer,
            ["darkroom.Example"],
            database=self._database,
            loops=[self.loop],
            timeout_seconds=1,
            stuck_seconds=stuck_seconds,
        )

    async def _turn(self) -> bool:
        if self.dies:
            raise asyncio.CancelledError
        if self.hangs.is_set():
            await self.goes_on.wait()
        return False

    async def _database(self) -> str | None:
        return self.database_fault

    async def serve(self) -> grpc.aio.Server:
        server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(self.servicer, server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await self.readiness.begin()
        return server

    async def asked(self, *names: str) -> list[str]:
        return [await asyncio.to_thread(answer_of, self.port, name) for name in names]

    async def answers(self, *names: str) -> list[str]:
        await self.readiness.look()
        return await self.asked(*(names or ("", "darkroom.Example", LIVENESS)))


class Serve(Protocol):
    async def __call__(self, *, stuck_seconds: float = 0.05) -> _Service: ...


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[grpc.aio.Server] = []

    async def start(*, stuck_seconds: float = 0.05) -> _Service:
        made = _Service(stuck_seconds=stuck_seconds)
        servers.append(await made.serve())
        return made

    yield start
    for server in servers:
        await server.stop(grace=None)


@pytest.fixture
async def service(serve: Serve) -> _Service:
    return await serve()


async def test_at_the_start_it_is_alive_and_not_ready(service: _Service) -> None:
    assert await service.asked("", "darkroom.Example", LIVENESS) == [NOT_SERVING, NOT_SERVING, SERVING]


async def test_a_database_that_is_away_costs_the_readiness_alone(service: _Service) -> None:
    service.loop.start()
    assert await service.answers() == [SERVING, SERVING, SERVING]
    service.database_fault = "away"
    assert await service.answers() == [NOT_SERVING, NOT_SERVING, SERVING]
    await service.loop.stop()


async def test_a_turn_that_hangs_costs_the_liveness_until_it_goes_on(service: _Service) -> None:
    service.loop.start()
    assert await service.answers(LIVENESS) == [SERVING]
    service.hangs.set()
    service.loop.wake()

    async def is_dead() -> bool:
        return await service.answers(LIVENESS) == [NOT_SERVING]

    await eventually(is_dead, within=5, what="the liveness follows the loop")
    service.hangs.clear()
    service.goes_on.set()

    async def is_alive() -> bool:
        return await service.answers(LIVENESS) == [SERVING]

    await eventually(is_alive, within=5, what="it is alive again")
    await service.loop.stop()


async def test_a_turn_that_waits_for_the_database_gets_its_time_anew_once_that_answers(serve: Serve) -> None:
    service = await serve(stuck_seconds=0.3)
    service.hangs.set()
    service.loop.start()
    service.database_fault = "away"

    async def has_hung() -> bool:
        assert await service.answers(LIVENESS) == [SERVING]
        return service.loop.turning_seconds > 0.4

    await eventually(has_hung, within=5, what="the turn has hung longer than it may")
    service.database_fault = None
    # It has hung for long, the database has only just come back.
    assert await service.answers(LIVENESS) == [SERVING]

    async def is_dead() -> bool:
        return await service.answers(LIVENESS) == [NOT_SERVING]

    await eventually(is_dead, within=5, what="it hangs though the database answers")
    service.goes_on.set()
    await service.loop.stop()


async def test_a_loop_that_has_died_costs_both_at_once(serve: Serve) -> None:
    service = await serve(stuck_seconds=60)
    service.dies = True
    service.loop.start()

    async def has_died() -> bool:
        return service.loop.has_died

    await eventually(has_died, within=5, what="the loop dies")
    assert await service.answers() == [NOT_SERVING, NOT_SERVING, NOT_SERVING]


async def test_what_drains_is_alive_and_never_ready_again(service: _Service) -> None:
    service.loop.start()
    assert await service.answers() == [SERVING, SERVING, SERVING]
    await service.readiness.drain()
    await service.loop.stop()
    assert await service.answers() == [NOT_SERVING, NOT_SERVING, SERVING]
