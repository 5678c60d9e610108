"""Reads that may be a little late: of a standby, and of the primary while that one is away or too far behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from libs.common import metrics
from libs.common.database.engine import Database
from libs.common.errors import DATABASE_FAILURES, GenerationError, StatementEnded

T = TypeVar("T")
log = structlog.get_logger()

# Every process writes a line every few seconds, so the last commit that was replayed is never much older than its lag.
_LAG = sa.text("""
SELECT CASE WHEN pg_is_in_recovery() THEN extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float ELSE 0 END
""")


class ReplicaDatabase(Database):
    """A pool of connections to a standby.

    Args:
        url: of the standby, or of several hosts that may be read.
        primary: what is read meanwhile where the standby cannot be.
        lag_seconds: a standby that is further behind is not read.
        size, statement_timeout_seconds, application_name: as for `Database`.
    """

    def __init__(
        self,
        url: str,
        *,
        primary: Database,
        lag_seconds: float,
        size: int,
        statement_timeout_seconds: float,
        application_name: str,
    ) -> None:
        super().__init__(
            url,
            size=size,
            statement_timeout_seconds=statement_timeout_seconds,
            application_name=application_name,
            is_read_only=True,
        )
        self.live_ids = primary.live_ids
        self._primary = primary
        self._lag_seconds = lag_seconds
        self._is_usable = False

    async def transaction(self, name: str, work: Callable[[Connection], T]) -> T:
        """As `Database.transaction`; `work` reads. It runs once more, on the primary, where the standby fails."""
        if self._is_usable:
            try:
                return await super().transaction(name, work)
            except GenerationError as error:
                if error.code not in DATABASE_FAILURES:
                    raise
                # A standby that ends a statement, for instance for a conflict with its recovery, is still there.
                if not isinstance(error, StatementEnded):
                    self._tell(usable=False, lag_seconds=None)
        return await self._primary.transaction(name, work)

    async def look(self) -> bool:
        """Look how far behind the standby is. A turn of a loop."""
        try:
            lag_seconds: float | None = await super().transaction("read_lag", lambda c: c.execute(_LAG).scalar_one())
        except GenerationError:
            lag_seconds = None
        if lag_seconds is not None:
            metrics.REPLICA_LAG_SECONDS.set(lag_seconds)
        self._tell(usable=lag_seconds is not None and lag_seconds <= self._lag_seconds, lag_seconds=lag_seconds)
        return False

    def _tell(self, *, usable: bool, lag_seconds: float | None) -> None:
        if usable and not self._is_usable:
            log.info("the standby is read", lag_seconds=lag_seconds)
        elif self._is_usable and not usable:
            log.warning("the standby is not read, the primary is", lag_seconds=lag_seconds)
        self._is_usable = usable
        metrics.REPLICA_IN_USE.set(usable)
