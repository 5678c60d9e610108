"""A proxy before Postgres that loses commits, or the replies to them, where a test asks for it.

Source of the messages: https://www.postgresql.org/docs/current/protocol-message-formats.html. psycopg2 sends each
statement, COMMIT included, as a simple query, so that its text can be read here.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Literal

import sqlalchemy as sa

_PROTOCOL_3 = 3 << 16
_CHUNK_BYTES = 65_536
Loss = Literal["commit", "reply"]


class CommitProxy:
    """A port that leads to a Postgres.

    Attributes:
        lost: how many commits or replies were lost.
    """

    def __init__(self, url: str) -> None:
        self._url = sa.make_url(url)
        self._marker, self._loss, self._times = b"", "reply", 0
        self._connections: set[asyncio.Task[None]] = set()
        self.lost = 0

    async def start(self) -> str:
        """Listen. Answers the URL by which the database is reached through this proxy."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return self._url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    async def close(self) -> None:
        """End all connections."""
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def lose(self, loss: Loss, *, after: str, times: int = 1) -> None:
        """Cut connections at the next COMMITs of transactions with a statement that contains `after`.

        Args:
            loss: `reply`: the commit is carried out, and its reply is lost; `commit`: it never reaches the server.
            after: a part of a statement.
            times: how many commits.
        """
        self._marker, self._loss, self._times = after.encode(), loss, times

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                server = await asyncio.open_connection(self._url.host, self._url.port or 5432)
                await _Connection(self, (reader, writer), server).serve()
        finally:
            writer.close()
            self._connections.discard(task)

    def take(self) -> Loss | None:
        """Whether this commit is to be lost, and how."""
        if not self._times:
            return None
        self._times -= 1
        self.lost += 1
        return "commit" if self._loss == "commit" else "reply"

    def marks(self, statement: bytes) -> bool:
        """Whether the commit of this statement's transaction may be lost."""
        return bool(self._marker) and self._marker in statement


class _Connection:
    """One connection of a client, and its own to the server."""

    def __init__(
        self,
        proxy: CommitProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._is_marked = self._drops_replies = False

    async def serve(self) -> None:
        """Pass messages on in both directions until one side ends, or a commit is lost."""
        ways = [asyncio.ensure_future(self._up()), asyncio.ensure_future(self._down())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._to_server.close()
            self._to_client.close()

    async def _up(self) -> None:
        await self._start_up()
        while True:
            head = await self._from_client.readexactly(5)
            body = await self._from_client.readexactly(struct.unpack("!i", head[1:])[0] - 4)
            if head[:1] == b"Q" and self._loses(body.rstrip(b"\0")):
                return
            self._to_server.write(head + body)

    async def _start_up(self) -> None:
        """Messages before the protocol has begun, for instance the request for TLS, have no type."""
        code = 0
        while code != _PROTOCOL_3:
            head = await self._from_client.readexactly(8)
            length, code = struct.unpack("!ii", head)
            self._to_server.write(head + await self._from_client.readexactly(length - 8))

    def _loses(self, statement: bytes) -> bool:
        """Whether a statement is a commit that must not reach the server."""
        self._is_marked |= self._proxy.marks(statement)
        if statement not in {b"COMMIT", b"ROLLBACK"}:
            return False
        loss = self._proxy.take() if statement == b"COMMIT" and self._is_marked else None
        self._is_marked = False
        self._drops_replies |= loss == "reply"
        return loss == "commit"

    async def _down(self) -> None:
        while content := await self._from_server.read(_CHUNK_BYTES):
            if self._drops_replies:
                # The server has answered, so it has committed.
                return
            self._to_client.write(content)
