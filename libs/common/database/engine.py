"""The connection to Postgres: one pool of connections and threads, behind which psycopg2 may block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from time import perf_counter
from typing import Any, TypeVar

import sqlalchemy as sa
from psycopg2.errorcodes import READ_ONLY_SQL_TRANSACTION
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from libs.common import metrics
from libs.common.database.ranges import LiveIds
from libs.common.errors import ErrorCode, GenerationError
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


class Database:
    """A pool of `size` connections, each used by one thread at a time.

    Args:
        url: a SQLAlchemy URL of Postgres.
        size: connections, and threads that use them.
        statement_timeout_seconds: a statement that takes longer is ended by the server.
        application_name: what pg_stat_activity shows.
        is_read_only: whether a server will do that only reads.

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
                "options": f"-c statement_timeout={int(statement_timeout_seconds * 1_000)} -c timezone=UTC",
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

        A connection that turns out to be dead before the commit is replaced, and `work` runs once more.

        Raises GenerationError SERVICE_UNAVAILABLE where the database cannot be reached or gives up; other faults
        (a broken constraint, wrong SQL) come through as they are.
        """
        started = perf_counter()
        try:
            # Its span is a child of the caller's, wherever it runs.
            run = copy_context().run
            return await asyncio.get_running_loop().run_in_executor(self._threads, run, self._run, work)
        except (PoolTimeoutError, _LostBeforeCommitError) as error:
            raise _unavailable(error) from error
        except DBAPIError as error:
            if error.connection_invalidated or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
                raise _unavailable(error) from error
            raise
        finally:
            metrics.DATABASE_TRANSACTION_SECONDS.labels(name).observe(perf_counter() - started)

    def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            return self._run_once(work)
        except _LostBeforeCommitError:
            return self._run_once(work)

    def _run_once(self, work: Callable[[Connection], T]) -> T:
        with self.engine.connect() as connection, connection.begin() as transaction:
            try:
                answer = work(connection)
            except DBAPIError as error:
                # Nothing was committed: a pooled connection had died, for instance with a restart of the server.
                if error.connection_invalidated:
                    raise _LostBeforeCommitError from error
                # Or the server has become one that stands by: another connection finds who writes.
                if getattr(error.orig, "pgcode", None) == READ_ONLY_SQL_TRANSACTION:
                    connection.invalidate()
                    raise _LostBeforeCommitError from error
                raise
            transaction.commit()
            return answer

    async def ping(self) -> None:
        """Ask for one row. Raises as `transaction` does."""
        await self.transaction("ping", lambda connection: connection.execute(sa.text("SELECT 1")).scalar_one())

    async def close(self) -> None:
        """End the threads and the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()


class _LostBeforeCommitError(Exception):
    pass


def _unavailable(error: Exception) -> GenerationError:
    return GenerationError(
        ErrorCode.SERVICE_UNAVAILABLE,
        "The database cannot be reached.",
        {"cause": type(error.__cause__ or error).__name__},
    )


def _count_statement(*_: Any) -> None:
    metrics.DATABASE_STATEMENTS.inc()
