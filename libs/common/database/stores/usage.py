"""What keys have used, held while it is decided what they let in: the same for generations alone and for batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database.records_edge import KeyUsage, Quota
from libs.common.database.stores.sets import rows_as_json, statement
from libs.common.errors import ErrorCode, GenerationError

_HOLD_USAGE = statement("""
SELECT 1 FROM api_key_usage WHERE api_key_id = ANY(:ids) ORDER BY api_key_id FOR UPDATE""")

# Read once the rows are held, so that it sees all that earlier holders committed.
_USAGE = statement("""
SELECT k.id AS api_key_id, k.requests_per_minute, k.live_generations AS live_limit, k.monthly_budget_usd,
    CASE WHEN u.tokens_at IS NOT NULL THEN u.tokens END AS tokens,
    COALESCE(CAST(EXTRACT(EPOCH FROM clock_timestamp() - u.tokens_at) AS float), 0) AS tokens_age_seconds,
    u.live_generations + COALESCE(ledger.live, 0) AS live_generations,
    CAST(COALESCE(s.reserved_usd, 0) + COALESCE(ledger.reserved_usd, 0) AS float) AS reserved_usd,
    CAST(COALESCE(s.spent_usd, 0) + COALESCE(ledger.spent_usd, 0) AS float) AS spent_usd,
    CAST(COALESCE(s.at_risk_usd, 0) + COALESCE(ledger.at_risk_usd, 0) AS float) AS at_risk_usd,
    CAST(EXTRACT(EPOCH FROM (this.month + interval '1 month') AT TIME ZONE 'UTC' - now()) AS float)
        AS month_seconds_left
FROM api_keys k JOIN api_key_usage u ON u.api_key_id = k.id
CROSS JOIN (SELECT CAST(date_trunc('month', now() AT TIME ZONE 'UTC') AS date) AS month) this
LEFT JOIN api_key_spend s ON s.api_key_id = k.id AND s.month = this.month
LEFT JOIN LATERAL (
    SELECT sum(l.live) AS live, sum(l.reserved_usd) FILTER (WHERE l.month = this.month) AS reserved_usd,
        sum(l.spent_usd) FILTER (WHERE l.month = this.month) AS spent_usd,
        sum(l.at_risk_usd) FILTER (WHERE l.month = this.month) AS at_risk_usd
    FROM api_key_ledger l WHERE l.api_key_id = k.id) ledger ON true
WHERE k.id = ANY(:ids)""")

_COUNT_TOKENS = statement("""
UPDATE api_key_usage u SET tokens = row.tokens, tokens_at = clock_timestamp()
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(api_key_id text, tokens float)
WHERE u.api_key_id = row.api_key_id""")


def hold_usage(connection: Connection, api_key_ids: Iterable[str]) -> list[KeyUsage]:
    """What these keys may use and have used, which nobody else admits anything for until the transaction ends."""
    ids = sorted(api_key_ids)
    connection.execute(_HOLD_USAGE, {"ids": ids})
    return read_usage(connection, ids)


def read_usage(connection: Connection, api_key_ids: Sequence[str]) -> list[KeyUsage]:
    """What these keys may use and have used at this moment."""
    ids = {"ids": list(api_key_ids)}
    return [_usage(row) for row in connection.execute(_USAGE, ids).mappings()]


def count_tokens(connection: Connection, tokens: Mapping[str, float]) -> None:
    """Write how many requests the keys have left, by key."""
    if tokens:
        rows = ({"api_key_id": api_key_id, "tokens": left} for api_key_id, left in tokens.items())
        connection.execute(_COUNT_TOKENS, {"rows": rows_as_json(rows)})


def unknown_usage() -> GenerationError:
    """A key whose usage is not there lets nothing in."""
    return GenerationError(ErrorCode.INTERNAL_ERROR, "The API key's usage is not there.")


def _usage(row: Any) -> KeyUsage:
    budget = row["monthly_budget_usd"]
    quota = Quota(row["requests_per_minute"], row["live_limit"], None if budget is None else float(budget))
    return KeyUsage(
        api_key_id=row["api_key_id"],
        quota=quota,
        tokens=row["tokens"],
        tokens_age_seconds=max(0.0, row["tokens_age_seconds"]),
        live_generations=int(row["live_generations"]),
        reserved_usd=row["reserved_usd"],
        spent_usd=row["spent_usd"],
        at_risk_usd=row["at_risk_usd"],
        month_seconds_left=row["month_seconds_left"],
    )
