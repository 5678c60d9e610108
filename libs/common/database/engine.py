"""The connection to Postgres: one pool of connections and threads, behind which psycopg2 may block."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from time import perf_counter, sleep
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from libs.common import metrics
from libs.common.database.faults import READ_ONLY, REPEATED_AT_ONCE, Fault
from libs.common.database.ranges import LiveIds
from libs.common.errors import OutcomeUnknown
from libs.common.settings import Settings

T = TypeVar("T")

# A dead peer is noticed in seconds, also when no reset arrives; a server that only reads, since it recovers or stands
# by, is no database of ours: of several hosts in the URL the one that writes is taken.
CONNECTING = {
    "connect_timeout": 3,
    "target_session_attrs": "read-write",
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

_COMMIT_REPLY_LOST = (
    "The connection to the database ended before the reply to the commit came: it may have been carried out."
)
# Consecutive deadlocks and serialization failures after which the caller gets the error.
_CONFLICTS_REPEATED = 4
_CONFLICT_WAIT_SECONDS = 0.01


class Database:
    """A pool of `size` connections, each used by one thread at a time.

    Args:
        url: a SQLAlchemy URL of Postgres.
        size: connections, and threads that use them.
        statement_timeout_seconds: a statement that takes longer is ended by the server.
        application_name: what pg_stat_activity shows.
        is_read_only: whether a server will do that only reads.
        idle_timeout_seconds: a transaction in which no statement runs for so long is rolled back by the server, so that
            a process that is paused holds its rows no longer.

    Attributes:
        live_ids: where statements look for what is under way; everywhere, until somebody says where.
    """

    def __init__(
        self,
        url: str,
        *,
        size: int,
        statement_timeout_seconds: float,
        application_name: str,
        is_read_only: bool = False,
        idle_timeout_seconds: float = 30.0,
    ) -> None:
        self.live_ids = LiveIds()
        self._size = size
        self.engine = sa.create_engine(
            url,
            pool_size=size,
            max_overflow=0,
            pool_timeout=10,
            connect_args={
                **CONNECTING,
                "target_session_attrs": "any" if is_read_only else CONNECTING["target_session_attrs"],
                "application_name": application_name,
                "options": f"-c statement_timeout={int(statement_timeout_seconds * 1_000)} -c timezone=UTC "
                f"-c idle_in_transaction_session_timeout={int(idle_timeout_seconds * 1_000)}",
            },
        )
        self._threads = ThreadPoolExecutor(max_workers=size, thread_name_prefix="database")
        sa.event.listen(self.engine, "before_cursor_execute", _count_statement)

    @classmethod
    def from_settings(cls, settings: Settings, application_name: str) -> Database:
        """The database that the settings name."""
        return cls(
            settings.database_url.get_secret_value(),
            size=settings.database_pool_size,
            statement_timeout_seconds=settings.database_statement_timeout_seconds,
            application_name=application_name,
        )

    def open_connections(self) -> float:
        """How many connections the pool has open."""
        pool = self.engine.pool
        return float(pool.checkedin() + pool.checkedout()) if isinstance(pool, sa.QueuePool) else 0.0

    def connections_in_use(self) -> float:
        """How many of them are at work."""
        pool = self.engine.pool
        return float(pool.checkedout()) if isinstance(pool, sa.QueuePool) else 0.0

    async def transaction(self, name: str, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction on one of the pool's threads and answer what it returns.

        `work` runs once more where its connection turns out to be dead before the commit, and a few times more where
        the transaction is the victim of a deadlock or of a serialization failure.

        Raises:
            GenerationError: SERVICE_UNAVAILABLE where the database cannot be reached or has no room: nothing was
                committed.
            StatementEnded: where the database ended a statement, for instance by its timeout: nothing was committed.
            OutcomeUnknown: where the reply to the COMMIT was lost.
            DBAPIError: any other fault (a broken constraint, wrong SQL), as it is.
        """
        started = perf_counter()
        try:
            # Its span is a child of the caller's, wherever it runs.
            run = copy_context().run
            return await asyncio.get_running_loop().run_in_executor(self._threads, run, self._run, work)
        except _CommitReplyLost as error:
            raise OutcomeUnknown(_COMMIT_REPLY_LOST, {"cause": type(error.__cause__).__name__}) from error
        except (DBAPIError, PoolTimeoutError) as error:
            meaning = Fault.of(error).meaning()
            if meaning is None:
                raise
            raise meaning from error
        finally:
            metrics.DATABASE_TRANSACTION_SECONDS.labels(name).observe(perf_counter() - started)

    def _run(self, work: Callable[[Connection], T]) -> T:
        may_replace_connection, conflicts = True, 0
        while True:
            try:
                return self._run_once(work)
            except _LostBeforeCommit as error:
                if not may_replace_connection:
                    raise error.cause from None
                may_replace_connection = False
            except DBAPIError as error:
                if Fault.of(error).sqlstate not in REPEATED_AT_ONCE or conflicts == _CONFLICTS_REPEATED:
                    raise
                conflicts += 1
                # A random wait keeps two conflicting transactions from conflicting again.
                sleep(random.uniform(0, _CONFLICT_WAIT_SECONDS * 2**conflicts))

    def _run_once(self, work: Callable[[Connection], T]) -> T:
        with self.engine.connect() as connection, connection.begin() as transaction:
            try:
                answer = work(connection)
            except DBAPIError as error:
                fault = Fault.of(error)
                # The server has become a standby; a new connection finds the primary.
                if fault.sqlstate == READ_ONLY:
                    connection.invalidate()
                if fault.lost_connection or fault.sqlstate == READ_ONLY:
                    raise _LostBeforeCommit(error) from error
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if Fault.of(error).lost_connection:
                    raise _CommitReplyLost from error
                raise
            return answer

    async def ping(self) -> None:
        """Ask for one row. Raises as `transaction` does."""
        await self.transaction("ping", lambda connection: connection.execute(sa.text("SELECT 1")).scalar_one())

    async def close(self) -> None:
        """End the threads and the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()


class _LostBeforeCommit(Exception):
    """The connection was lost, for instance by a restart of the server, and nothing was committed."""

    def __init__(self, cause: DBAPIError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _CommitReplyLost(Exception):
    """The connection ended after the COMMIT was sent and before its reply came."""


def _count_statement(*_: Any) -> None:
    metrics.DATABASE_STATEMENTS.inc()
