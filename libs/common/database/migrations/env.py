"""Runs the migrations over the connection that `libs.common.database.migrate` hands in."""

from alembic import context

from libs.common.database.all_tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
