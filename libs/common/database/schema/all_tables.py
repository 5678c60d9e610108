"""All tables at once, for the migrations and for tests that compare the database with the declarations."""

from __future__ import annotations

from libs.common.database.schema import (
    access,
    accounts,
    batches,
    callbacks,
    console,
    experiments,
    generations,
    images,
    monitor,
    tasks,
)
from libs.common.database.schema.metadata import metadata

MODULES = (generations, tasks, accounts, access, callbacks, batches, images, monitor, experiments, console)
__all__ = ["MODULES", "metadata"]
