"""Who is signed in to the console."""

from __future__ import annotations

from libs.common.database.engine import Database
from libs.common.database.records_edge import ApiKeyRecord
from libs.common.database.stores.api_keys import OWN_COLUMNS
from libs.common.database.stores.sets import records, statement

_BEGIN = statement("""
INSERT INTO console_sessions (token_hash, api_key_id, expires_at)
VALUES (:token_hash, :api_key_id, now() + make_interval(secs => :seconds))""")

# As good as its key: one that is revoked, has expired or opens less than before ends its sessions.
_FIND = statement(f"""
{OWN_COLUMNS}
FROM console_sessions s JOIN api_keys k ON k.id = s.api_key_id
WHERE s.token_hash = :token_hash AND s.expires_at > now() AND s.seen_at > now() - make_interval(secs => :idle_seconds)
    AND k.role = 'admin' AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())""")

_TOUCH = statement("""
UPDATE console_sessions SET seen_at = now()
WHERE token_hash = :token_hash AND seen_at < now() - interval '1 minute'""")

_END = statement("DELETE FROM console_sessions WHERE token_hash = :token_hash")

_FORGET = statement("""
DELETE FROM console_sessions
WHERE expires_at < now() OR seen_at < now() - make_interval(secs => :idle_seconds)""")


class ConsoleSessionStore:
    """Keeps sessions by the hashes of their tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, token_hash: bytes, api_key_id: str, *, seconds: float) -> None:
        """Keep a session of this key, for so long."""
        row = {"token_hash": token_hash, "api_key_id": api_key_id, "seconds": seconds}
        await self._database.transaction("begin_console_session", lambda c: c.execute(_BEGIN, row))

    async def find(self, token_hash: bytes, *, idle_seconds: float) -> ApiKeyRecord | None:
        """The key behind a session that was used within so long; None where there is none."""
        parameters = {"token_hash": token_hash, "idle_seconds": idle_seconds}
        found = await self._database.transaction(
            "find_console_session", lambda c: records(ApiKeyRecord, c.execute(_FIND, parameters))
        )
        return found[0] if found else None

    async def touch(self, token_hash: bytes) -> None:
        """Note that it is used, at most once a minute."""
        await self._database.transaction(
            "touch_console_session", lambda c: c.execute(_TOUCH, {"token_hash": token_hash})
        )

    async def end(self, token_hash: bytes) -> None:
        """Forget a session."""
        await self._database.transaction("end_console_session", lambda c: c.execute(_END, {"token_hash": token_hash}))

    async def forget(self, *, idle_seconds: float) -> None:
        """Forget those that are over."""
        await self._database.transaction(
            "forget_console_sessions", lambda c: c.execute(_FORGET, {"idle_seconds": idle_seconds})
        )
