"""Set-based statements: many rows travel as one JSON document, so that a group of any size costs one statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult

T = TypeVar("T")


def rows_as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as the document that `jsonb_to_recordset` reads."""
    return json.dumps(list(rows), separators=(",", ":"), ensure_ascii=False)


def records(record: type[T], result: CursorResult[*tuple[Any, ...]]) -> list[T]:
    """Each row as a `record`, column by name."""
    return [record(**row) for row in result.mappings()]


def statement(sql: str) -> sa.TextClause:
    """A statement with named parameters (`:name`)."""
    return sa.text(sql)
