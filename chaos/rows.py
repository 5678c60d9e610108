"""Reads rows of the stack's database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from libs.common.database.engine import Database


async def rows(database: Database, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """What a query answers. Raises GenerationError where the database is away."""
    return await database.transaction(
        "chaos", lambda c: [dict(row) for row in c.execute(sa.text(sql), parameters).mappings()]
    )


async def execute(database: Database, *statements: str, **parameters: Any) -> None:
    """Run statements in one transaction. Raises GenerationError where the database is away."""

    def work(connection: sa.Connection) -> None:
        for statement in statements:
            connection.execute(sa.text(statement), parameters)

    await database.transaction("chaos", work)
