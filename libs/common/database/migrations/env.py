"""Runs the migrations over the connection that `libs.common.database.migrate` hands in."""

from alembic import context

from libs.common.database.partitioning import is_compared
from libs.common.database.schema.all_tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
    compare_server_default=True,
    include_name=is_compared,
)
with context.begin_transaction():
    context.run_migrations()
