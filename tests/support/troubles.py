"""Rows as trouble leaves them: each makes one rule's condition hold."""

from __future__ import annotations

from typing import Any

from libs.common.database.engine import Database
from tests.support.rows import execute, insert, new_generation


async def _generations(database: Database, number: int, **changes: Any) -> list[str]:
    made = [new_generation(**changes) for _ in range(number)]
    await insert(database, made)
    return [generation.id for generation in made]


async def _end(database: Database, ids: list[str], state: str, code: str = "") -> None:
    error = f"""'{{"code": "{code}", "message": "x", "details": {{}}, "is_retryable": false}}'""" if code else "NULL"
    outputs = "'[]'" if state == "SUCCESS" else "NULL"
    await execute(
        database,
        f"""UPDATE generation_requests SET state = '{state}', ended_at = now(), error = {error}, outputs = {outputs}
        WHERE id = ANY(:ids)""",
        ids=ids,
    )


async def most_fail(database: Database) -> None:
    """Most generations at a provider fail."""
    ids = await _generations(database, 30)
    await _end(database, ids[:12], "SUCCESS")
    await _end(database, ids[12:], "FAILED", "PROVIDER_UNAVAILABLE")


async def tasks_time_out(database: Database) -> None:
    """More than a fifth of the tasks at a provider are not ended in time."""
    ids = await _generations(database, 25)
    await execute(
        database,
        """INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, strategy, poll_interval_ms,
            next_poll_at, deadline_at)
        SELECT 'bfl', id, id, 'flux', 'fixed', 1000, now(), now() FROM unnest(CAST(:ids AS text[])) AS id""",
        ids=ids,
    )
    end = """UPDATE poll_tasks SET state = '{}', ended_at = now(), last_error = {} WHERE task_id = ANY(:ids)"""
    await execute(database, end.format("SUCCESS", "NULL"), ids=ids[:18])
    await execute(database, end.format("FAILED", """'{"code": "TASK_TIMEOUT"}'"""), ids=ids[18:])


async def sent_again(database: Database) -> None:
    """A generation is sent five times."""
    (generation,) = await _generations(database, 1)
    await execute(
        database,
        """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at)
        SELECT 'sub_' || n, :id, n, 'bfl', 'NOT_ACCEPTED', now() FROM generate_series(1, 5) AS n""",
        id=generation,
    )


async def circuit_opens(database: Database) -> None:
    """A circuit is open."""
    await execute(
        database,
        """INSERT INTO provider_accounts (provider_id, breaker_state, breaker_changed_at)
        VALUES ('bfl', 'OPEN', now())""",
    )


async def waits(database: Database) -> None:
    """Two generations have waited for eleven minutes."""
    ids = await _generations(database, 2)
    await execute(
        database,
        "UPDATE generation_requests SET released_at = now() - interval '11 minutes' WHERE id = ANY(:ids)",
        ids=ids,
    )


async def spends(database: Database) -> None:
    """A provider account has spent most of its day."""
    await execute(
        database,
        """INSERT INTO provider_accounts (provider_id, spend_day, spend_usd)
        VALUES ('bfl', (now() AT TIME ZONE 'UTC')::date, 9.5)""",
    )


async def uncertain(database: Database) -> None:
    """A submit may have been billed."""
    (generation,) = await _generations(database, 1)
    await execute(
        database,
        """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at)
        VALUES ('sub_u', :id, 1, 'bfl', 'UNCERTAIN', now())""",
        id=generation,
    )


async def key_spends(database: Database) -> None:
    """A key has used most of its month: reserved, spent and at risk, part of it in lines that are not yet added up."""
    month = "date_trunc('month', now() AT TIME ZONE 'UTC')"
    await execute(
        database,
        """INSERT INTO api_keys (id, prefix, key_hash, role, owner, monthly_budget_usd)
        VALUES ('key_1', 'drk_x', 'x', 'client', 'acme', 100)""",
    )
    await execute(database, f"INSERT INTO api_key_spend VALUES ('key_1', {month}, 10, 60, 5)")
    await execute(
        database,
        f"""INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd, at_risk_usd)
        VALUES ('key_1', {month}, 0, 0, 10, 10)""",
    )


async def tasks_are_missing(database: Database) -> None:
    """A provider does not know two tasks any more, which were checked again and again."""
    ids = await _generations(database, 2)
    await execute(
        database,
        """INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, strategy, poll_interval_ms,
            next_poll_at, deadline_at, retry_count, missing_since)
        SELECT 'bfl', id, id, 'flux', 'fixed', 1000, now(), now(), 9, now() FROM unnest(CAST(:ids AS text[])) AS id""",
        ids=ids,
    )


async def credentials_are_refused(database: Database) -> None:
    """A provider has refused our credentials for checks for two minutes."""
    await execute(
        database,
        """INSERT INTO provider_accounts (provider_id, polls_paused_at, polls_probe_at)
        VALUES ('bfl', now() - interval '2 minutes', now())""",
    )
