"""Brings a database to the newest schema: `python -m libs.common.database.migrate`. Safe to repeat, also at once."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from libs.common.settings import Settings

# Two migrations of the same database at once would meet half-made tables; the second waits here.
_LOCK = sa.text("SELECT pg_advisory_lock(7032000)")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(7032000)")


def config(connection: sa.Connection) -> Config:
    """Alembic's configuration over an open connection."""
    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    found.attributes["connection"] = connection
    return found


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to `revision`. Does nothing where it is there already."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as guard, engine.connect() as connection:
        guard.execute(_LOCK)
        try:
            command.upgrade(config(connection), revision)
            connection.commit()
        finally:
            guard.execute(_UNLOCK)


if __name__ == "__main__":
    upgrade(Settings().database_url.get_secret_value())
