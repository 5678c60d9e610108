"""Brings the functions and triggers of the SQL files of this folder into a database."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy.engine import Connection

# Functions of others call those of generations, which come first.
_FILES: Final = sorted(Path(__file__).parent.glob("*.sql"), key=lambda file: (file.stem != "generations", file.stem))


def replace_triggers(connection: Connection) -> None:
    """Create all functions and triggers of the schema, or replace them with their current text.

    Safe to repeat. A trigger that is replaced locks its table against writes until the transaction ends. What no file
    has any more is not dropped: a migration does that.
    """
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    before = connection.exec_driver_sql("SHOW search_path").scalar_one()
    # Functions that run with their owner's rights keep this search path.
    connection.exec_driver_sql(f"SET LOCAL search_path = {schema}, pg_temp")
    for file in _FILES:
        connection.exec_driver_sql(file.read_text(encoding="utf-8").replace("%", "%%"))
    connection.exec_driver_sql(f"SET LOCAL search_path = {before}")
