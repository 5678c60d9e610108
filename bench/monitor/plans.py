"""What the monitor asks of the database, how long each statement takes, and by which way Postgres answers it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from libs.common.database.engine import Database

# A table of a few pages is read whole whatever indexes it has.
SMALL_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement of a question: its beginning, its time in milliseconds, and the ways through tables."""

    question: str
    statement: str
    milliseconds: float
    scans: tuple[str, ...]
    sequential: tuple[str, ...]
    """Tables of more than a few pages that were read whole."""


async def explain(database: Database, question: str, ask: Callable[[], Awaitable[object]]) -> list[Asked]:
    """Ask, and explain each statement that was sent for it."""
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            sent.append((statement, parameters))

    await ask()
    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        await ask()
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)
    return [await _explained(database, question, statement, parameters) for statement, parameters in sent]


async def _explained(database: Database, question: str, statement: str, parameters: Any) -> Asked:
    def work(connection: sa.Connection) -> Any:
        cursor = connection.connection.cursor()
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        answer = cursor.fetchall()[0][0]
        cursor.execute("SELECT relname, reltuples FROM pg_class WHERE relkind = 'r'")
        return answer, dict(cursor.fetchall())

    answer, sizes = await database.transaction("explain", work)
    (explained,) = json.loads(answer) if isinstance(answer, str) else answer
    nodes = list(_nodes(explained["Plan"]))
    scans = [
        (node["Node Type"], node.get("Index Name") or node["Relation Name"], node["Relation Name"])
        for node in nodes
        if "Relation Name" in node
    ]
    return Asked(
        question,
        " ".join(statement.split())[:70],
        explained["Execution Time"] + explained["Planning Time"],
        tuple(dict.fromkeys(f"{kind} {name}" for kind, name, _ in scans)),
        tuple(table for kind, _, table in scans if kind == "Seq Scan" and sizes.get(table, 0) > SMALL_ROWS),
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)
