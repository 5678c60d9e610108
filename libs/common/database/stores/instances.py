"""The processes that run, and the level that each is to log at: one statement says the one and asks the other."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from libs.common.database.engine import Database
from libs.common.database.records_monitor import Heartbeat, InstanceRecord
from libs.common.database.stores.sets import records, statement

SILENT_SECONDS = 45.0
"""After so long without a sign a process counts as gone."""

_BEAT = statement("""
WITH beat AS (
    INSERT INTO service_instances AS i
        (owner, service, version, is_ready, resident_bytes, cpu_percent, started_at, seen_at)
    VALUES (:owner, :service, :version, :is_ready, :resident_bytes, :cpu_percent,
        now() - make_interval(secs => :age_seconds), now())
    ON CONFLICT (owner) DO UPDATE SET is_ready = EXCLUDED.is_ready, resident_bytes = EXCLUDED.resident_bytes,
        cpu_percent = EXCLUDED.cpu_percent, seen_at = now()
)
SELECT level FROM log_levels WHERE service = :service AND until > now()""")
_LEAVE = statement("DELETE FROM service_instances WHERE owner = :owner")
_LIST = statement("""
SELECT owner, service, version, is_ready, resident_bytes, cpu_percent, started_at, seen_at FROM service_instances
WHERE seen_at > now() - make_interval(secs => :silent_seconds) ORDER BY service, owner""")
_SET_LEVEL = statement("""
INSERT INTO log_levels (service, level, until, set_by)
VALUES (:service, :level, now() + make_interval(secs => :seconds), :by)
ON CONFLICT (service) DO UPDATE SET level = EXCLUDED.level, until = EXCLUDED.until, set_by = EXCLUDED.set_by
RETURNING until""")
_FORGET = statement("DELETE FROM service_instances WHERE seen_at < now() - interval '1 day'")


class InstanceStore:
    """What each process writes of itself, and what the monitor reads of all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(self, heartbeat: Heartbeat) -> str | None:
        """Say that this process runs; the level that somebody wants it to log at, or None."""
        return await self._database.transaction(
            "beat", lambda c: c.execute(_BEAT, asdict(heartbeat)).scalar_one_or_none()
        )

    async def leave(self, owner: str) -> None:
        """Say that this process runs no more."""
        await self._database.transaction("leave", lambda c: c.execute(_LEAVE, {"owner": owner}))

    async def list_all(self) -> list[InstanceRecord]:
        """The processes that run, by service."""
        parameters = {"silent_seconds": SILENT_SECONDS}
        return await self._database.transaction(
            "list_instances", lambda c: records(InstanceRecord, c.execute(_LIST, parameters))
        )

    async def set_level(self, service: str, level: str, *, seconds: int, by: str) -> datetime:
        """Let a service's replicas log so for a while; until when. An empty `level` ends it."""
        parameters = {"service": service, "level": level, "seconds": seconds if level else 0, "by": by}
        return await self._database.transaction(
            "set_log_level", lambda c: c.execute(_SET_LEVEL, parameters).scalar_one()
        )

    async def forget(self) -> int:
        """Delete what is left of processes that went without a word; how many."""
        return await self._database.transaction("forget_instances", lambda c: int(c.execute(_FORGET).rowcount))
