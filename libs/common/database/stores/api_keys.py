"""API keys: made, found, changed, revoked; and their usage, added up from the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records_edge import ApiKeyChange, ApiKeyRecord, NewApiKey
from libs.common.database.stores.sets import records, statement

OWN_COLUMNS = """
SELECT k.id, k.prefix, k.key_hash, k.role, k.owner, k.requests_per_minute, k.live_generations AS live_limit,
    CAST(k.monthly_budget_usd AS float) AS monthly_budget_usd, k.callback_url, k.created_at, k.expires_at,
    k.revoked_at, k.last_used_at,
    k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) AS is_valid"""

_FIND = statement(f"{OWN_COLUMNS} FROM api_keys k WHERE k.prefix = :prefix")

_WITH_USAGE = f"""{OWN_COLUMNS},
    u.live_generations + COALESCE(ledger.live, 0) AS live_generations,
    CAST(COALESCE(s.reserved_usd, 0) + COALESCE(ledger.reserved_usd, 0) AS float) AS reserved_usd,
    CAST(COALESCE(s.spent_usd, 0) + COALESCE(ledger.spent_usd, 0) AS float) AS spent_usd,
    CAST(COALESCE(s.at_risk_usd, 0) + COALESCE(ledger.at_risk_usd, 0) AS float) AS at_risk_usd
FROM api_keys k JOIN api_key_usage u ON u.api_key_id = k.id
CROSS JOIN (SELECT CAST(date_trunc('month', now() AT TIME ZONE 'UTC') AS date) AS month) this
LEFT JOIN api_key_spend s ON s.api_key_id = k.id AND s.month = this.month
LEFT JOIN LATERAL (
    SELECT sum(l.live) AS live, sum(l.reserved_usd) FILTER (WHERE l.month = this.month) AS reserved_usd,
        sum(l.spent_usd) FILTER (WHERE l.month = this.month) AS spent_usd,
        sum(l.at_risk_usd) FILTER (WHERE l.month = this.month) AS at_risk_usd
    FROM api_key_ledger l WHERE l.api_key_id = k.id) ledger ON true"""

_GET = statement(f"{_WITH_USAGE} WHERE k.id = :id")

_LIST = statement(f"""{_WITH_USAGE}
WHERE (CAST(:owner AS text) IS NULL OR k.owner = :owner)
    AND (:include_invalid OR k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()))
    AND (CAST(:before AS text) IS NULL OR k.id < :before)
ORDER BY k.id DESC LIMIT :limit""")

_INSERT = statement("""
INSERT INTO api_keys (id, prefix, key_hash, role, owner, requests_per_minute, live_generations, monthly_budget_usd,
    callback_url, expires_at)
VALUES (:id, :prefix, :key_hash, :role, :owner, :requests_per_minute, :live_generations, :monthly_budget_usd,
    :callback_url, :expires_at)""")

_INSERT_USAGE = statement("INSERT INTO api_key_usage (api_key_id) VALUES (:id) ON CONFLICT DO NOTHING")

# The same key again changes nothing: one that was revoked stays so.
_SET_FIRST = statement("""
INSERT INTO api_keys (id, prefix, key_hash, role, owner) VALUES (:id, :prefix, :key_hash, 'admin', :owner)
ON CONFLICT (id) DO UPDATE SET prefix = EXCLUDED.prefix, key_hash = EXCLUDED.key_hash, revoked_at = NULL
WHERE api_keys.key_hash <> EXCLUDED.key_hash""")

_CHANGEABLE = {
    "requests_per_minute": "int",
    "live_generations": "int",
    "monthly_budget_usd": "numeric",
    "callback_url": "text",
    "expires_at": "timestamptz",
}
_SET = ",\n    ".join(
    f"{name} = CASE WHEN '{name}' = ANY(:changed) THEN CAST(:{name} AS {kind}) ELSE {name} END"
    for name, kind in _CHANGEABLE.items()
)
_UPDATE = statement(f"UPDATE api_keys SET {_SET}\nWHERE id = :id")

_INVALID = statement("""
SELECT asked.id FROM unnest(CAST(:ids AS text[])) AS asked (id) LEFT JOIN api_keys k ON k.id = asked.id
WHERE k.id IS NULL OR k.revoked_at IS NOT NULL OR k.expires_at <= now()""")

_REVOKE = statement("UPDATE api_keys SET revoked_at = COALESCE(revoked_at, now()) WHERE id = :id")

_TOUCH = statement("""
UPDATE api_keys SET last_used_at = date_trunc('minute', now())
WHERE id = ANY(:ids) AND (last_used_at IS NULL OR last_used_at < date_trunc('minute', now()))""")

# Whoever admits generations holds the usage row meanwhile, so that nothing moves under their eyes.
_ADD_UP = statement("""
WITH held AS (
    SELECT u.api_key_id FROM api_key_usage u
    WHERE u.api_key_id IN (SELECT DISTINCT l.api_key_id FROM api_key_ledger l)
    ORDER BY u.api_key_id FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM api_key_ledger l USING held WHERE l.api_key_id = held.api_key_id
    RETURNING l.api_key_id, l.month, l.live, l.reserved_usd, l.spent_usd, l.at_risk_usd
), counted AS (
    UPDATE api_key_usage u SET live_generations = u.live_generations + total.live
    FROM (SELECT api_key_id, sum(live) AS live FROM gone GROUP BY api_key_id) total
    WHERE u.api_key_id = total.api_key_id
)
INSERT INTO api_key_spend (api_key_id, month, reserved_usd, spent_usd, at_risk_usd)
SELECT api_key_id, month, sum(reserved_usd), sum(spent_usd), sum(at_risk_usd) FROM gone GROUP BY api_key_id, month
ON CONFLICT (api_key_id, month) DO UPDATE
SET reserved_usd = api_key_spend.reserved_usd + EXCLUDED.reserved_usd,
    spent_usd = api_key_spend.spent_usd + EXCLUDED.spent_usd,
    at_risk_usd = api_key_spend.at_risk_usd + EXCLUDED.at_risk_usd""")


class ApiKeyStore:
    """Reads and writes of the gateway."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, key: NewApiKey) -> ApiKeyRecord:
        """Insert a key; return its record, read in the same transaction."""

        def work(connection: Connection) -> ApiKeyRecord:
            connection.execute(_INSERT, {**asdict(key), **asdict(key.quota)})
            connection.execute(_INSERT_USAGE, {"id": key.id})
            return records(ApiKeyRecord, connection.execute(_GET, {"id": key.id}))[0]

        return await self._database.transaction("create_api_key", work)

    async def set_first_admin(self, key_id: str, *, prefix: str, key_hash: bytes, owner: str) -> None:
        """Keep the admin key that the settings name, in the place of an earlier one of theirs."""
        row = {"id": key_id, "prefix": prefix, "key_hash": key_hash, "owner": owner}

        def work(connection: Connection) -> None:
            connection.execute(_SET_FIRST, row)
            connection.execute(_INSERT_USAGE, {"id": key_id})

        await self._database.transaction("set_first_admin", work)

    async def find(self, prefix: str) -> ApiKeyRecord | None:
        """The key that begins so, without its usage; or None."""
        return await self._one("find_api_key", _FIND, {"prefix": prefix})

    async def get(self, key_id: str) -> ApiKeyRecord | None:
        """The key of that id with its usage, or None."""
        return await self._one("get_api_key", _GET, {"id": key_id})

    async def list_page(
        self, limit: int, *, owner: str | None, include_invalid: bool, before: str | None
    ) -> list[ApiKeyRecord]:
        """At most `limit` keys with their usage, newest first, older than the id `before`."""
        parameters = {"limit": limit, "owner": owner, "include_invalid": include_invalid, "before": before}
        return await self._database.transaction(
            "list_api_keys", lambda c: records(ApiKeyRecord, c.execute(_LIST, parameters))
        )

    async def update(self, key_id: str, change: ApiKeyChange) -> ApiKeyRecord | None:
        """Update the fields `change.changed` of a key; return the updated record, or None without such a key."""
        parameters = {**asdict(change), "id": key_id, "changed": sorted(change.changed)}
        return await self._written("update_api_key", _UPDATE, key_id, parameters)

    async def revoke(self, key_id: str) -> ApiKeyRecord | None:
        """Revoke a key; return the revoked record, or None without such a key."""
        return await self._written("revoke_api_key", _REVOKE, key_id, {"id": key_id})

    async def invalid(self, key_ids: Sequence[str]) -> list[str]:
        """Of these keys, the ids of those that are revoked, expired or unknown."""
        return await self._database.transaction(
            "invalid_api_keys", lambda c: list(c.execute(_INVALID, {"ids": list(key_ids)}).scalars())
        )

    async def touch(self, key_ids: Sequence[str]) -> None:
        """Note that these keys were used in this minute."""
        await self._database.transaction("touch_api_keys", lambda c: c.execute(_TOUCH, {"ids": list(key_ids)}))

    async def add_up(self) -> None:
        """Move the ledger's lines into the sums that admission reads."""
        await self._database.transaction("add_up_usage", lambda c: c.execute(_ADD_UP))

    async def _written(self, name: str, query: Any, key_id: str, parameters: dict[str, Any]) -> ApiKeyRecord | None:
        """Update a key and read it in the same transaction, whose row lock excludes other changes between the two."""

        def work(connection: Connection) -> ApiKeyRecord | None:
            connection.execute(query, parameters)
            found = records(ApiKeyRecord, connection.execute(_GET, {"id": key_id}))
            return found[0] if found else None

        return await self._database.transaction(name, work)

    async def _one(self, name: str, query: Any, parameters: dict[str, Any]) -> ApiKeyRecord | None:
        found = await self._database.transaction(name, lambda c: records(ApiKeyRecord, c.execute(query, parameters)))
        return found[0] if found else None
