"""Things that go away and come back: a port that can be shut, a healthy service, a database that loses a reply."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from sqlalchemy.engine import Connection
from yarl import URL

from libs.common.database.engine import Database
from libs.common.errors import ErrorCode, GenerationError
from sandbox.processes import free_port

T = TypeVar("T")


class Door:
    """A port that leads to another, and can be shut."""

    def __init__(self, host: str, to_port: int) -> None:
        self.port, self._host, self._to_port = free_port(), host, to_port
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    async def to(cls, url: str) -> Door:
        parsed = URL(url)
        door = cls(parsed.host or "", parsed.port or 80)
        await door.open()
        return door

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", self.port)

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        on_reader, on_writer = await asyncio.open_connection(self._host, self._to_port)
        self._writers |= {writer, on_writer}

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while content := await source.read(65_536):
                    target.write(content)
            target.close()

        await asyncio.gather(pass_on(reader, on_writer), pass_on(on_reader, writer))
        self._writers -= {writer, on_writer}


async def healthy_server(port: int) -> grpc.aio.Server:
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server


class LossyDatabase(Database):
    """A database that commits one transaction of the name `loses`, and then seems to be away: its reply is lost."""

    loses: str | None = None

    async def transaction(self, name: str, work: Callable[[Connection], T]) -> T:
        """See `Database`."""
        answer = await super().transaction(name, work)
        if name == self.loses:
            self.loses = None
            raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "The reply to the commit is lost.")
        return answer
