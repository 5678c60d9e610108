"""`make migration`: writes what the tables have and the migrations do not yet make of an empty Postgres."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from libs.common.database import migrate
from sandbox.postgres import Postgres
from sandbox.processes import free_port

_NAME = re.compile(r"[a-z][a-z0-9_]{2,60}")


def migration(name: str) -> int:
    """Write a migration called `name`. Answers the exit code."""
    if not _NAME.fullmatch(name):
        print("Name what changes, in words joined by _: make migration NAME=add_priority", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="darkroom-migration-") as folder:
        postgres = Postgres(Path(folder), free_port(), durable=False)
        postgres.start()
        try:
            migrate.upgrade(postgres.url)
            engine = sa.create_engine(postgres.url, poolclass=sa.NullPool)
            with engine.connect() as connection:
                config = migrate.config(connection)
                number = len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1
                command.revision(config, message=name, autogenerate=True, rev_id=f"{number:04}")
        finally:
            postgres.stop()
    print("Read it before you commit it; then `make test` compares it with the tables.")
    return 0
