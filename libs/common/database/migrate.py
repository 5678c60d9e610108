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
# By all pairs of an id's characters: languages that sort otherwise have letters of two characters, or another alphabet.
_SORTS_BY_BYTES = sa.text("""
WITH character AS (
    SELECT unnest(string_to_array('0123456789abcdefghjkmnpqrstvwxyz', NULL)) AS one
), id AS (
    SELECT 'gen_' || a.one || b.one AS id FROM character a CROSS JOIN character b
)
SELECT bool_and(by_database = by_bytes) FROM (
    SELECT row_number() OVER (ORDER BY id) AS by_database, row_number() OVER (ORDER BY id COLLATE "C") AS by_bytes
    FROM id) numbered""")
_COLLATION = sa.text("SELECT datcollate FROM pg_database WHERE datname = current_database()")
_LOCK_SECONDS = 0.2
_LOOK_SECONDS = 2.0


def config(connection: sa.Connection) -> Config:
    """Alembic's configuration over an open connection."""
    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    found.attributes["connection"] = connection
    return found


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to `revision`. Does nothing where it is there already, or beyond.

    Raises WrongOrder, and changes nothing, where the collation of the database does not sort ids by their bytes.
    """
    engine = _engine(url)
    with engine.connect() as guard, engine.connect() as connection:
        while not guard.execute(_LOCK).scalar_one():
            sleep(_LOCK_SECONDS)
        try:
            _check_order(connection)
            newer = _is_newer(connection)
            # Each migration then begins and ends transactions of its own.
            connection.commit()
            if not newer:
                command.upgrade(config(connection), revision)
        finally:
            guard.execute(_UNLOCK)


class WrongOrder(RuntimeError):
    """The database sorts ids otherwise than by their bytes, which is the order in which they were made."""


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


def _check_order(connection: sa.Connection) -> None:
    if not connection.execute(_SORTS_BY_BYTES).scalar_one():
        collation = connection.execute(_COLLATION).scalar_one()
        raise WrongOrder(
            f"The database sorts text by {collation}, which does not sort ids by their bytes; months and queues are "
            "ranges of ids. Create another one (CREATE DATABASE … TEMPLATE template0 LC_COLLATE 'C') and migrate that."
        )


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
        try:
            upgrade(url)
        except WrongOrder as error:
            raise SystemExit(str(error)) from error
    elif not wait(url, seconds):
        raise SystemExit("The schema is not there yet: has the migration run?")


if __name__ == "__main__":
    _main()
