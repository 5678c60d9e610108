"""Stacks that the tests of one module share, each on a database of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from libs.common.settings import ServiceName
from sandbox.catalog import Adjust
from sandbox.launcher import Stack
from tests.conftest import PATH_SERVICES, quick, stack_folder, stack_plan
from tests.support.infrastructure import TEMPLATE, Infrastructure


@dataclass(frozen=True, slots=True)
class StackOfModule:
    """A stack, and the URL of its database."""

    stack: Stack
    database_url: str


@contextmanager
def stack_of_module(
    shared: Infrastructure,
    database: str,
    *,
    settings: Mapping[str, str] | None = None,
    adjust: Adjust = quick,
    services: tuple[ServiceName, ...] = PATH_SERVICES,
) -> Iterator[StackOfModule]:
    """Run services over the shared parts, until the block ends.

    A module's fixture `module_stack` yields it; the fixtures `stack` and `stack_database` lead tests to it.

    Args:
        shared: the parts that tests share.
        database: the name of the database to create; unique among all modules.
        settings: environment variables beyond those of all stacks of tests.
        adjust: changes the catalog.
        services: which.
    """
    url = shared.postgres.create_database(database, template=TEMPLATE)
    try:
        with stack_folder() as folder:
            plan = stack_plan(shared, folder, url, settings=settings or {}, adjust=adjust, services=services)
            with Stack(plan, start=shared.nursery.start) as stack:
                yield StackOfModule(stack, url)
    finally:
        # A worker that leaves the module and returns creates it again.
        shared.postgres.drop_database(database)
