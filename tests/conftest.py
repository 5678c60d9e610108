"""Real parts for tests. Shared ones live as long as the worker; what a test changes is its own."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import hypothesis
import pytest
from psutil import virtual_memory

from libs.common.database.engine import Database
from libs.common.settings import ServiceName, Settings
from sandbox.catalog import Adjust
from sandbox.launcher import Stack
from sandbox.plan import Plan, Ports
from tests.support.grouping import placed
from tests.support.infrastructure import TEMPLATE, Infrastructure, infrastructure
from tests.support.running import Running, own_environment
from tests.support.simulator import Simulator

# No test is timed: others on the machine may hold one up. `make test` tries the same examples in each run; the suite
# "properties" of tests/suites.toml tries others, and more, with --hypothesis-profile thorough.
_UNTIMED = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("quick", _UNTIMED, max_examples=100, derandomize=True)
hypothesis.settings.register_profile("thorough", _UNTIMED, max_examples=1_000)
hypothesis.settings.load_profile("quick")

# What is slower belongs to a suite of tests/suites.toml, unless it waits for a machine that does other things.
_BUDGET_SECONDS = 60.0
_over_budget: list[str] = []

PATH_SERVICES: tuple[ServiceName, ...] = ("gateway", "dispatcher", "poller")
# Faults are seen, and healed, in the time of a test.
QUICK = {
    "DARKROOM_LEASE_SECONDS": "5",
    "DARKROOM_SWEEP_SECONDS": "0.3",
    "DARKROOM_READINESS_CHECK_SECONDS": "0.3",
    "DARKROOM_HEALTH_CHECK_SECONDS": "0.5",
    "DARKROOM_CATALOG_CHECK_SECONDS": "0.2",
    "DARKROOM_LOOKUP_INTERVAL_SECONDS": "0.2",
    "DARKROOM_LOOKUP_APART_SECONDS": "0.5",
    "DARKROOM_LOOKUP_MARGIN_SECONDS": "1",
    "DARKROOM_LOG_LEVEL": "debug",
    "DARKROOM_WATCH_INTERVAL_SECONDS": "0.05",
    "DARKROOM_CALLBACK_ALLOWED_HOSTS": "127.0.0.1",
}
# Stacks that many tests share mostly wait for others: they look after themselves less often.
CALM = {
    "DARKROOM_SWEEP_SECONDS": "1",
    "DARKROOM_READINESS_CHECK_SECONDS": "2",
    "DARKROOM_HEALTH_CHECK_SECONDS": "3",
    "DARKROOM_CATALOG_CHECK_SECONDS": "2",
}
SHARED_CONCURRENT_TASKS = 100_000
_databases = itertools.count()
_MEMORY, _ROOM_BYTES = Path("/dev", "shm"), 6 * 1024**3


def quick(catalog: dict[str, Any]) -> None:
    """Providers without long waits: polls every 0.1 s, repeats after 0.1 s."""
    for provider in catalog["providers"].values():
        provider["retry"] = {"attempts": 3, "first_wait_seconds": 0.1, "longest_wait_seconds": 0.5}
        # Tests share providers and make them fail on purpose; those of breakers set their own.
        provider["breaker"] = {"minimum_calls": 1_000_000}
        provider.get("limits", {}).pop("requests_per_minute", None)
    for model in catalog["models"].values():
        model["polling"] = {"strategy": "fixed", "interval_seconds": 0.1}


def shared_by_tests(catalog: dict[str, Any]) -> None:
    """Providers as for `quick`, with room for the unfinished tasks that tests of a shared stack leave behind."""
    quick(catalog)
    catalog["providers"]["bfl"]["limits"]["concurrent_tasks"] = SHARED_CONCURRENT_TASKS


def pytest_itemcollected(item: pytest.Item) -> None:
    """Name the group of a test, which xdist's workers read before the hooks of this file see all tests."""
    if group := placed(item)[1]:
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests for the workers, where there are any."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: placed(item)[0])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test, its setup or its teardown that takes longer than it may without the mark `slow`."""
    if report.duration > _BUDGET_SECONDS and "slow" not in report.keywords:
        _over_budget.append(f"{report.when} of {report.nodeid} took {report.duration:.0f} s, of {_BUDGET_SECONDS:.0f}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run whose tests took longer than they may."""
    if _over_budget and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which these were."""
    for told in _over_budget:
        terminalreporter.write_line(f"over budget: {told}")


class StartStack(Protocol):
    """Starts services over the shared parts, on a database of their own."""

    async def __call__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        adjust: Adjust = quick,
        services: tuple[ServiceName, ...] = PATH_SERVICES,
        own_postgres: bool = False,
        own_objects: bool = False,
        webhooks: bool = False,
    ) -> Running:
        """Start them, and answer once they are ready. `own_…`: one that the test may stop.

        `webhooks`: providers are asked to report to the gateway.
        """


def _in_memory() -> str | None:
    """A file system in memory with room for the databases of tests; None if there is none.

    A new database is some 900 files, which disks take ten times as long to make.
    """
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    return str(_MEMORY) if has_room and virtual_memory().available > _ROOM_BYTES else None


@contextmanager
def stack_folder(*, in_memory: bool = True) -> Iterator[Path]:
    """A folder apart from pytest's own, in memory where there is room unless `in_memory` is false.

    Another run of pytest locks those against other users, and as root the embedded Postgres is another user.
    """
    place = _in_memory() if in_memory else None
    with TemporaryDirectory(prefix="darkroom-tests-", dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with stack_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def shared() -> Iterator[Infrastructure]:
    with stack_folder() as folder, infrastructure(folder) as found:
        yield found


@pytest.fixture
async def simulator(shared: Infrastructure) -> Simulator:
    found = Simulator(shared.simulators_url)
    await found.forget()
    return found


@pytest.fixture
def database_url(shared: Infrastructure) -> Iterator[str]:
    name = f"test_{next(_databases)}"
    yield shared.postgres.create_database(name, template=TEMPLATE)
    shared.postgres.drop_database(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    found = Database(database_url, size=4, statement_timeout_seconds=10, application_name="test")
    yield found
    await found.close()


@pytest.fixture
def settings(shared: Infrastructure, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for key, value in (shared.object_settings() | {"DARKROOM_DATABASE_URL": database_url}).items():
        monkeypatch.setenv(key, value)
    return Settings()


def stack_plan(
    shared: Infrastructure,
    folder: Path,
    url: str,
    *,
    settings: Mapping[str, str],
    adjust: Adjust = quick,
    services: tuple[ServiceName, ...] = PATH_SERVICES,
) -> Plan:
    catalog, credentials = shared.catalog(folder, adjust)
    environment = {
        **own_environment(),
        **shared.object_settings(),
        **credentials,
        "DARKROOM_DATABASE_URL": url,
        "DARKROOM_CATALOG": str(catalog),
    }
    settings = {**QUICK, **settings}
    ports = Ports.free()
    return Plan(folder, ports, environment=environment, settings=settings, services=services, has_bucket=True)


@pytest.fixture
async def start_stack(shared: Infrastructure, database_url: str, tmp_path: Path) -> AsyncIterator[StartStack]:
    started: list[Running] = []

    async def start(
        *,
        settings: Mapping[str, str] | None = None,
        adjust: Adjust = quick,
        services: tuple[ServiceName, ...] = PATH_SERVICES,
        own_postgres: bool = False,
        own_objects: bool = False,
        webhooks: bool = False,
    ) -> Running:
        folder = tmp_path / f"stack-{len(started)}"
        folder.mkdir()
        url = "" if own_postgres else database_url
        plan = stack_plan(shared, folder, url, settings=settings or {}, adjust=adjust, services=services)
        if own_objects:
            plan = replace(plan, environment={**plan.environment, "DARKROOM_S3_ENDPOINT_URL": ""})
        if webhooks:
            plan = _reporting(plan)
        # One that is cut off must keep what it has committed.
        plan = replace(plan, durable=own_postgres)
        stack = Stack(plan, start=shared.nursery.start)
        await asyncio.to_thread(stack.start)
        started.append(Running(stack))
        return started[-1]

    yield start
    for running in started:
        await running.close()
        # Nobody looks at it any more; how services end by themselves has tests of its own.
        await asyncio.to_thread(running.stack.cut_off)


def with_webhooks(catalog: dict[str, Any]) -> None:
    """Providers whose tasks would end by polling after a minute: webhooks are to end them."""
    shared_by_tests(catalog)
    for provider in catalog["providers"].values():
        if "webhooks" in provider:
            provider["webhooks"]["poll_interval_seconds"] = 60
    for model in catalog["models"].values():
        model["polling"] = {"strategy": "fixed", "interval_seconds": 60}


def _reporting(plan: Plan) -> Plan:
    """The plan with providers that are asked to report to its gateway."""
    public_url = f"http://127.0.0.1:{plan.ports.gateway_http}"
    return replace(plan, settings={**plan.settings, "DARKROOM_PUBLIC_URL": public_url})


@pytest.fixture(scope="session")
def _lasting_hooked_stack(shared: Infrastructure) -> Iterator[Stack]:
    url = shared.postgres.create_database("lasting_hooked", template=TEMPLATE)
    with stack_folder() as folder:
        plan = _reporting(stack_plan(shared, folder, url, settings=CALM, adjust=with_webhooks))
        with Stack(plan, start=shared.nursery.start) as stack:
            yield stack


@pytest.fixture
async def hooked(_lasting_hooked_stack: Stack) -> AsyncIterator[Running]:
    """A stack that tests share which do not harm it, whose providers report the ends of tasks."""
    found = Running(_lasting_hooked_stack)
    yield found
    await found.close()


@pytest.fixture(scope="session")
def lasting_stack(shared: Infrastructure) -> Iterator[Stack]:
    url = shared.postgres.create_database("lasting", template=TEMPLATE)
    services: tuple[ServiceName, ...] = (*PATH_SERVICES, "monitor")
    with stack_folder() as folder:
        plan = stack_plan(shared, folder, url, settings=CALM, adjust=shared_by_tests, services=services)
        with Stack(plan, start=shared.nursery.start) as stack:
            yield stack


@pytest.fixture
async def running(lasting_stack: Stack) -> AsyncIterator[Running]:
    """A stack that tests share which do not harm it."""
    found = Running(lasting_stack)
    yield found
    await found.close()
