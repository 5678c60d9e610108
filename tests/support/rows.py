"""Rows for tests of stores, and a look at what the database holds."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa

from libs.common.database.engine import Database
from libs.common.database.records import NewGeneration
from libs.common.database.records_edge import Accepted, Admission, KeyUsage, NewRequest
from libs.common.database.stores.intake import IntakeStore

_numbers = itertools.count()


def new_generation(**changes: Any) -> NewGeneration:
    """A validated request."""
    fields: dict[str, Any] = {
        "id": f"gen_{next(_numbers):06}",
        "model_identifier": "flux-pro",
        "provider_id": "bfl",
        "media_type": "image",
        "prompt": "a red apple",
        "input_images": [],
        "number_of_outputs": 1,
        "parameters": {},
        "priority": 5,
        "when_uncertain": "fail",
        "user_id": None,
        "labels": {},
        "request_id": "req_1",
    }
    return NewGeneration(**(fields | changes))


def admit_every(usage: KeyUsage, generations: Sequence[NewGeneration]) -> Admission:
    """Let everything in."""
    return Admission([None] * len(generations), None)


async def insert(database: Database, generations: Sequence[NewGeneration]) -> None:
    """Take generations in."""
    answers = await IntakeStore(database, admit_every).accept([NewRequest(generation) for generation in generations])
    assert all(isinstance(answer, Accepted) for answer in answers)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """The database at `url`, for as long as it takes."""
    database = Database(url, size=1, statement_timeout_seconds=10, application_name="test")
    try:
        yield database
    finally:
        await database.close()


async def rows(database: Database, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """What a query answers."""
    return await database.transaction(
        "test", lambda c: [dict(row) for row in c.execute(sa.text(sql), parameters).mappings()]
    )


async def execute(database: Database, sql: str, **parameters: Any) -> None:
    """Run a statement."""
    await database.transaction("test", lambda c: c.execute(sa.text(sql), parameters))


async def insert_key(database: Database, key_id: str, *, monthly_budget_usd: float = 1) -> None:
    """Insert a client's API key, owned by an owner of the same name, with its row of usage."""
    sql = """INSERT INTO api_keys (id, prefix, key_hash, role, owner, monthly_budget_usd)
        VALUES (:key, :key, '', 'client', :key, :budget)"""
    await execute(database, sql, key=key_id, budget=monthly_budget_usd)
    await execute(database, "INSERT INTO api_key_usage (api_key_id) VALUES (:key)", key=key_id)
