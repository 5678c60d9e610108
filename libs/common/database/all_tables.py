"""All tables at once, for what compares the database with them."""

from __future__ import annotations

from libs.common.database import (
    tables,
    tables_accounts,
    tables_batches,
    tables_console,
    tables_edge,
    tables_experiments,
    tables_images,
    tables_monitor,
    tables_tasks,
)

MODULES = (
    tables,
    tables_tasks,
    tables_accounts,
    tables_edge,
    tables_batches,
    tables_images,
    tables_monitor,
    tables_experiments,
    tables_console,
)
metadata = MODULES[0].metadata
