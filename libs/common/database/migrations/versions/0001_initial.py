"""The initial schema, as it is declared.

Until the first release it follows the declarations: a database that was made before a change is made anew. The first
release replaces `create_all` by what `make migration NAME=initial` writes from an empty folder, and later changes are
migrations of their own.
"""

from datetime import UTC, datetime

from alembic import op

from libs.common.database.partitioning import FIRST, REST, TABLES, month_of
from libs.common.database.schema.all_tables import metadata
from libs.common.database.schema.metadata import WORK_STORAGE
from libs.common.database.schema.triggers import replace_triggers

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    metadata.create_all(op.get_bind())
    _create_partitions()
    replace_triggers(op.get_bind())


def _create_partitions() -> None:
    """Create each partitioned table's first partition, which ends with the next month, and its default partition."""
    end = month_of(datetime.now(UTC), later=2)
    storage = ", ".join(f"{name} = {value}" for name, value in WORK_STORAGE.items())
    for table in TABLES:
        op.execute(
            f"CREATE TABLE {table.name}_{FIRST} PARTITION OF {table.name}"
            f" FOR VALUES FROM (MINVALUE) TO ('{table.bound(end)}') WITH ({storage})"
        )
        op.execute(f"CREATE TABLE {table.name}_{REST} PARTITION OF {table.name} DEFAULT")
