"""Who pressed what in the console."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from libs.common.database.engine import Database
from libs.common.database.stores.sets import records, statement

_INSERT = statement("""
INSERT INTO audit_records (id, api_key_id, owner, action, subject, outcome, address, request_id)
VALUES (:id, :api_key_id, :owner, :action, :subject, :outcome, :address, :request_id)""")
_LIST = statement("""
SELECT id, created_at, api_key_id, owner, action, subject, outcome, address, request_id FROM audit_records
WHERE CAST(:before AS text) IS NULL OR id < :before ORDER BY id DESC LIMIT :limit""")
_FORGET = statement("""
DELETE FROM audit_records WHERE id = ANY(ARRAY(
    SELECT id FROM audit_records WHERE created_at < now() - make_interval(days => :days)
    ORDER BY created_at LIMIT :limit))""")


@dataclass(frozen=True, slots=True)
class NewAuditRecord:
    """What was pressed just now. `outcome`: done, or the code of an error."""

    id: str
    api_key_id: str
    owner: str
    action: str
    subject: str
    outcome: str
    address: str
    request_id: str


@dataclass(frozen=True, slots=True)
class AuditRecord(NewAuditRecord):
    """What was pressed, and when."""

    created_at: datetime


class AuditStore:
    """Adds, reads, forgets; changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: NewAuditRecord) -> None:
        """Keep it."""
        await self._database.transaction("add_audit_record", lambda c: c.execute(_INSERT, asdict(record)))

    async def list_page(self, limit: int, *, before: str | None) -> list[AuditRecord]:
        """At most `limit`, the newest first, older than the id `before`."""
        parameters = {"limit": limit, "before": before}
        return await self._database.transaction(
            "list_audit_records", lambda c: records(AuditRecord, c.execute(_LIST, parameters))
        )

    async def forget(self, *, days: int, limit: int) -> bool:
        """Delete at most `limit` that are older than that; whether there may be more."""
        parameters = {"days": days, "limit": limit}
        return await self._database.transaction(
            "forget_audit_records", lambda c: c.execute(_FORGET, parameters).rowcount == limit
        )
