"""Brings a database to the newest schema: `python -m libs.common.database.migrate`. Safe to repeat, also at once.

With `--wait SECONDS` it changes nothing and ends once somebody else has: what a new version waits for at its start.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import monotonic, sleep

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from libs.common.database.engine import CONNECTING
from libs.common.settings import load

# Two migrations of the same database at once would meet half-made tables; the second asks until the first has ended. A
# statement that waited for it would be waited for by the first, where that builds an index concurrently.
_LOCK = sa.text("SELECT pg_try_advisory_lock(7032000)")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(7032000)")
_LOCK_SECONDS = 0.2
_LOOK_SECONDS = 2.0


def config(connection: sa.Connection) -> Config:
    """Alembic's configuration over an open connection."""
    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    found.attributes["connection"] = connection
    return found


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to `revision`. Does nothing where it is there already, or beyond."""
    engine = _engine(url)
    with engine.connect() as guard, engine.connect() as connection:
        while not guard.execute(_LOCK).scalar_one():
            sleep(_LOCK_SECONDS)
        try:
            newer = _is_newer(connection)
            # Each migration then begins and ends transactions of its own.
            connection.commit()
            if not newer:
                command.upgrade(config(connection), revision)
        finally:
            guard.execute(_UNLOCK)


def is_ready(url: str) -> bool:
    """Whether the schema of the database at `url` is the newest that this version knows, or newer.

    Raises sqlalchemy.exc.OperationalError where the database cannot be reached.
    """
    engine = _engine(url)
    with engine.connect() as connection:
        return _is_newer(connection) or _revision(connection) == _scripts(connection).get_current_head()


def wait(url: str, seconds: float) -> bool:
    """Whether the schema is ready within `seconds`; a database that is away is waited for, too."""
    deadline = monotonic() + seconds
    while True:
        try:
            if is_ready(url):
                return True
            reason = "the schema is older than this version"
        except sa.exc.OperationalError:
            reason = "the database cannot be reached"
        if monotonic() > deadline:
            return False
        print(f"Waiting: {reason}.", flush=True)
        sleep(_LOOK_SECONDS)


def _engine(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args=CONNECTING)


def _is_newer(connection: sa.Connection) -> bool:
    """Whether a later version was here, whose schema this one can live with and must not touch."""
    revision = _revision(connection)
    return revision is not None and revision not in {
        script.revision for script in _scripts(connection).walk_revisions()
    }


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _scripts(connection: sa.Connection) -> ScriptDirectory:
    return ScriptDirectory.from_config(config(connection))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="change nothing, wait until the schema is there")
    seconds = parser.parse_args().wait
    url = load().database_url.get_secret_value()
    if seconds is None:
        upgrade(url)
    elif not wait(url, seconds):
        raise SystemExit("The schema is not there yet: has the migration run?")


if __name__ == "__main__":
    _main()
