"""One stack of all five services for the tests of a worker that look at the console, and one browser.

Both end with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from libs.common.database.engine import Database
from sandbox.launcher import Stack
from sandbox.plan import SERVICES, SHIPPED_ALERT_RULES
from tests.conftest import stack_folder, stack_plan
from tests.support.alerting import desk, rules_text
from tests.support.browser import Operator, Stage, launched
from tests.support.infrastructure import TEMPLATE, Infrastructure
from tests.support.pages import pages
from tests.support.running import Running
from tests.support.simulator import Simulator

_SETTINGS = {
    "DARKROOM_CONSOLE_LIVE_SECONDS": "0.2",
    "DARKROOM_KEY_CACHE_SECONDS": "0.2",
    "DARKROOM_WRONG_KEY_DELAY_SECONDS": "0",
    "DARKROOM_EXPERIMENT_REFRESH_SECONDS": "0.1",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All on one loop: a browser lives as long as the loop that started it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def stage(shared: Infrastructure) -> AsyncIterator[Stage]:
    # A name of its own, for tests of other packages between its tests end the stage, and another one is set.
    url = shared.postgres.create_database(f"browser_{token_hex(4)}", template=TEMPLATE)
    with stack_folder() as folder:
        async with desk(folder) as told, async_playwright() as playwright:
            rules = folder / "alerts.yaml"
            rules.write_text(rules_text(SHIPPED_ALERT_RULES.read_text(), told))
            settings = {**_SETTINGS, **told.environment, "DARKROOM_ALERT_RULES": str(rules)}
            plan = stack_plan(shared, folder, url, settings=settings, services=SERVICES)
            database = Database(url, size=2, statement_timeout_seconds=10, application_name="test")
            browser = await launched(playwright)
            with Stack(replace(plan, durable=False), start=shared.nursery.start) as stack:
                running = Running(stack)
                yield Stage(running, database, told, Simulator(shared.simulators_url), browser)
                await running.close()
            await browser.close()
            await database.close()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def paths(stage: Stage) -> dict[str, str]:
    """The paths of all pages, with something on each."""
    return await pages(stage)


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(stage: Stage) -> AsyncIterator[Operator]:
    """Somebody who is not signed in."""
    async with stage.operator() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def operator(stage: Stage) -> AsyncIterator[Operator]:
    """Somebody who is signed in."""
    async with stage.operator() as found:
        await found.sign_in()
        yield found
