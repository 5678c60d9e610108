"""A TCP proxy before Postgres that loses replies to COMMIT, and holds a chosen one until its holder says what follows.

It reads the client's messages (PostgreSQL documentation, "Frontend/Backend Protocol"): clients without TLS that use the
simple query protocol, as psycopg2 does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80877103, 80877104, 80877102
_WRITES = re.compile(rb"\b(INSERT INTO|UPDATE|DELETE FROM)\b")
_COMMITTED = b"COMMIT\0"
_CHUNK_BYTES = 64 * 1024


class Messages:
    """Splits what a client sends into whole messages, and names the client.

    `application`: the client's `application_name`, empty until it has started.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._has_started = False
        self.application = ""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Each message that is whole now: its type, empty for those of the start, and all of its bytes."""
        self._buffer += data
        while True:
            offset = 1 if self._has_started else 0
            if len(self._buffer) < offset + 4:
                return
            length = offset + struct.unpack_from("!i", self._buffer, offset)[0]
            if len(self._buffer) < length:
                return
            message, self._buffer = self._buffer[:length], self._buffer[length:]
            if not self._has_started:
                self._start(message)
            yield message[:offset], message

    def _start(self, message: bytes) -> None:
        if struct.unpack_from("!i", message, 4)[0] in {_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST}:
            return
        words = message[8:].split(b"\0")
        parameters = dict(zip(words[::2], words[1::2], strict=False))
        self.application = parameters.get(b"application_name", b"").decode()
        self._has_started = True


@dataclass(slots=True)
class HeldCommit:
    """A COMMIT that Postgres has carried out and whose reply has not been forwarded.

    `client_port`: the port of the client's end, which identifies its process.
    """

    client_port: int
    _decision: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def release(self) -> None:
        """Forward the reply."""
        self._decide(is_forwarded=True)

    def cut(self) -> None:
        """Drop the reply and close the connection."""
        self._decide(is_forwarded=False)

    async def is_forwarded(self) -> bool:
        """Wait for the decision."""
        return await self._decision

    def _decide(self, *, is_forwarded: bool) -> None:
        if not self._decision.done():
            self._decision.set_result(is_forwarded)


@dataclass(slots=True)
class _Wish:
    application: str
    statement: bytes
    held: asyncio.Future[HeldCommit]


class PostgresProxy:
    """Forwards connections to Postgres.

    Args:
        port: where it listens on the loopback interface.
        upstream: Postgres's port there.
        lost_share: the share of COMMITs of transactions that write whose reply is lost, 0 to 1.
        seed: of its chance.
    """

    def __init__(self, port: int, upstream: int, *, lost_share: float, seed: int) -> None:
        self._port = port
        self._upstream = upstream
        self._lost_share = lost_share
        self._chance = random.Random(f"{seed}/postgres")
        self._server: asyncio.Server | None = None
        self._wishes: list[_Wish] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.lost_replies = 0
        """How many replies to COMMIT were lost by chance."""

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def close(self) -> None:
        """Stop, and close all connections."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def stop_faults(self) -> None:
        """Lose no more replies."""
        self._lost_share = 0.0

    async def hold(self, application: str, statement: str, *, within_seconds: float) -> HeldCommit | None:
        """Hold the reply to the next COMMIT of such a transaction.

        Args:
            application: the client's `application_name`.
            statement: words of a statement of the transaction.
            within_seconds: how long to wait for one.

        Returns the held COMMIT, which must be released or cut; None where none came in time.
        """
        wish = _Wish(application, statement.encode(), asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        try:
            return await asyncio.wait_for(wish.held, within_seconds)
        except TimeoutError:
            return None
        finally:
            if wish in self._wishes:
                self._wishes.remove(wish)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
        else:
            await _Link(self, (reader, writer), upstream).run()
        finally:
            self._connections.discard(task)

    def wish_for(self, application: str, statements: list[bytes]) -> asyncio.Future[HeldCommit] | None:
        """The waiter for this transaction's COMMIT, if there is one; asked once for each."""
        for wish in self._wishes:
            if wish.application == application and any(wish.statement in text for text in statements):
                self._wishes.remove(wish)
                return wish.held
        return None

    def loses(self, statements: list[bytes]) -> bool:
        """Whether the reply to this transaction's COMMIT is to be lost."""
        if not any(_WRITES.search(text) for text in statements):
            return False
        return self._chance.random() < self._lost_share


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One client's connection."""

    def __init__(self, proxy: PostgresProxy, client: Streams, server: Streams) -> None:
        self._proxy = proxy
        self._client_reader, self._client = client
        self._server_reader, self._server = server
        self._messages = Messages()
        self._statements: list[bytes] = []
        self._is_committing = False

    async def run(self) -> None:
        """Forward in both directions until one side closes, or the connection is cut."""
        pumps = [asyncio.create_task(self._upwards()), asyncio.create_task(self._downwards())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._client.transport.abort()
            self._server.transport.abort()

    async def _upwards(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._client_reader.read(_CHUNK_BYTES):
                for kind, message in self._messages.feed(data):
                    if kind == b"Q":
                        self._note(message[5:-1])
                    self._server.write(message)
                await self._server.drain()

    def _note(self, statement: bytes) -> None:
        self._is_committing = statement == b"COMMIT"
        if statement == b"BEGIN":
            self._statements = []
        elif not self._is_committing:
            self._statements.append(statement)

    async def _downwards(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._server_reader.read(_CHUNK_BYTES):
                # Only what Postgres has carried out: the same words with ROLLBACK say that it has not.
                if self._is_committing and _COMMITTED in data and not await self._is_forwarded():
                    return
                self._is_committing = False
                self._client.write(data)
                await self._client.drain()

    async def _is_forwarded(self) -> bool:
        wish = self._proxy.wish_for(self._messages.application, self._statements)
        if wish is not None and not wish.done():
            held = HeldCommit(self._client.get_extra_info("peername")[1])
            wish.set_result(held)
            return await held.is_forwarded()
        if self._proxy.loses(self._statements):
            self._proxy.lost_replies += 1
            return False
        return True
