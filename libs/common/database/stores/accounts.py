"""What all dispatchers know together of a provider account: its rate, its spend, its circuit breaker.

Whoever changes an account locks its row first, several in the order of their ids, so that none waits for another in a
circle. What is to change is decided by the caller, between the lock and the write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import AccountRecord
from libs.common.database.states import BreakerState
from libs.common.database.stores.sets import records, rows_as_json, statement

_COLUMNS = """
    provider_id, tokens, CAST(EXTRACT(EPOCH FROM tokens_at) AS float) AS tokens_at, spend_day::text AS spend_day,
    spend_usd, breaker_state, breaker_successes, breaker_failures,
    CAST(EXTRACT(EPOCH FROM breaker_counted_at) AS float) AS breaker_counted_at,
    CAST(EXTRACT(EPOCH FROM breaker_retry_at) AS float) AS breaker_retry_at, breaker_opens,
    CAST(EXTRACT(EPOCH FROM breaker_changed_at) AS float) AS breaker_changed_at,
    CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS float) AS now,
    (clock_timestamp() AT TIME ZONE 'UTC')::date::text AS today"""

_READ = statement(f"SELECT {_COLUMNS} FROM provider_accounts ORDER BY provider_id")

_SELECT = f"SELECT {_COLUMNS} FROM provider_accounts WHERE provider_id = ANY(:ids) ORDER BY provider_id"
_LOCK = statement(f"{_SELECT} FOR UPDATE")
_LOCK_AVAILABLE = statement(f"{_SELECT} FOR UPDATE SKIP LOCKED")

_MAKE = statement("""
INSERT INTO provider_accounts (provider_id) SELECT unnest(CAST(:ids AS text[])) AS id ORDER BY id
ON CONFLICT DO NOTHING""")

_WRITE = statement("""
UPDATE provider_accounts a
SET tokens = item.tokens, tokens_at = to_timestamp(item.tokens_at), spend_day = item.spend_day,
    spend_usd = item.spend_usd, breaker_state = item.breaker_state, breaker_successes = item.breaker_successes,
    breaker_failures = item.breaker_failures, breaker_counted_at = to_timestamp(item.breaker_counted_at),
    breaker_retry_at = to_timestamp(item.breaker_retry_at), breaker_opens = item.breaker_opens,
    breaker_changed_at = to_timestamp(item.breaker_changed_at)
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS item(
    provider_id text, tokens float, tokens_at float, spend_day date, spend_usd float, breaker_state text,
    breaker_successes float, breaker_failures float, breaker_counted_at float, breaker_retry_at float,
    breaker_opens int, breaker_changed_at float)
WHERE a.provider_id = item.provider_id""")

_REFUND = statement("""
UPDATE provider_accounts a SET spend_usd = GREATEST(0, a.spend_usd - item.cost_usd)
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS item(provider_id text, cost_usd float)
WHERE a.provider_id = item.provider_id AND a.spend_day = (clock_timestamp() AT TIME ZONE 'UTC')::date""")


def lock_accounts(connection: Connection, provider_ids: Iterable[str]) -> list[AccountRecord]:
    """The accounts, made where they are missing, locked until the transaction ends."""
    return _locked(connection, provider_ids, _LOCK)


def lock_available_accounts(connection: Connection, provider_ids: Iterable[str]) -> list[AccountRecord]:
    """As `lock_accounts`, without those that another transaction has locked: nobody is waited for."""
    return _locked(connection, provider_ids, _LOCK_AVAILABLE)


def write_accounts(connection: Connection, accounts: Sequence[AccountRecord]) -> None:
    """Write accounts that this transaction has locked."""
    if accounts:
        connection.execute(_WRITE, {"rows": rows_as_json(asdict(account) for account in accounts)})


def refund(connection: Connection, costs_usd: Mapping[str, float]) -> None:
    """Take what the providers did not take off today's spend (UTC), in US dollars by provider. Negative: charge it."""
    due = {provider_id: cost for provider_id, cost in costs_usd.items() if cost}
    if due:
        lock_accounts(connection, due)
        rows = ({"provider_id": provider_id, "cost_usd": cost} for provider_id, cost in due.items())
        connection.execute(_REFUND, {"rows": rows_as_json(rows)})


def _locked(connection: Connection, provider_ids: Iterable[str], lock: sa.TextClause) -> list[AccountRecord]:
    ids = sorted(set(provider_ids))
    found = records(AccountRecord, connection.execute(lock, {"ids": ids}))
    if len(found) < len(ids):
        connection.execute(_MAKE, {"ids": ids})
        found = records(AccountRecord, connection.execute(lock, {"ids": ids}))
    return _typed(found)


def _typed(found: list[AccountRecord]) -> list[AccountRecord]:
    return [
        AccountRecord(**(asdict(record) | {"breaker_state": BreakerState(record.breaker_state)})) for record in found
    ]


class AccountStore:
    """Reads and writes of accounts apart from claims."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> list[AccountRecord]:
        """All accounts that were ever used."""
        return await self._database.transaction(
            "read_accounts", lambda c: _typed(records(AccountRecord, c.execute(_READ)))
        )

    async def change(
        self, provider_ids: Iterable[str], decide: Callable[[AccountRecord], AccountRecord]
    ) -> list[AccountRecord]:
        """Write what `decide` makes of each account, and answer that. It may be called again with newer ones."""

        def work(connection: Connection) -> list[AccountRecord]:
            after = [decide(account) for account in lock_accounts(connection, provider_ids)]
            write_accounts(connection, after)
            return after

        return await self._database.transaction("change_accounts", work)
