"""Brings the functions and triggers of the SQL files of this folder into a database."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy.engine import Connection

FILES: Final = tuple(sorted(Path(__file__).parent.glob("*.sql")))


def replace_triggers(connection: Connection) -> None:
    """Create all functions and triggers of the schema, or replace them with their current text.

    Safe to repeat. A trigger that is replaced locks its table against writes until the transaction ends. What no file
    has any more is not dropped: a migration does that.
    """
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    before = connection.exec_driver_sql("SHOW search_path").scalar_one()
    # Functions that run with their owner's rights keep this search path.
    connection.exec_driver_sql(f"SET LOCAL search_path = {schema}, pg_temp")
    for file in FILES:
        connection.exec_driver_sql(file.read_text().replace("%", "%%"))
    connection.exec_driver_sql(f"SET LOCAL search_path = {before}")
