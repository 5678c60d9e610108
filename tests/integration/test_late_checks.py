"""When a task that was given up is checked again, and what such a check may meet, on a real Postgres."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import structlog

from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import ProviderOutput, Task, TaskStatus
from libs.common.adapters.flux import Flux
from libs.common.catalog import CatalogHolder
from libs.common.database.engine import Database
from libs.common.database.states import State, TaskState
from libs.common.database.stores.late_results import LateResult
from libs.common.database.stores.pauses import PausePolicy, PauseStore
from services.poller.asking import Asking
from services.poller.late import LateChecks
from tests.support.catalogs import MODEL, PROVIDER
from tests.support.late import (
    CONTINUATIONS,
    SOURCES,
    STORING,
    given_up,
    late_store,
    settle,
)
from tests.support.rows import execute, rows


async def test_late_checks_grow_rare_and_end(database: Database) -> None:
    await given_up(database)
    store = late_store(database, first_seconds=60, longest_seconds=3_600, last_seconds=86_400)
    assert await store.claim({"bfl": 2}) == []
    waits = []
    elapsed = 60.0
    while True:
        await execute(
            database,
            "UPDATE poll_tasks SET ended_at = now() - make_interval(secs => :elapsed), late_poll_at = now()",
            elapsed=elapsed,
        )
        assert [task.task_id for task in await store.claim({"bfl": 2})] == ["t"]
        assert await store.claim({"bfl": 2}) == [], "it is claimed once"
        (row,) = await rows(
            database, "SELECT round(extract(epoch FROM late_poll_at - now()))::float AS wait FROM poll_tasks"
        )
        if row["wait"] is None:
            break
        waits.append(row["wait"])
        elapsed += row["wait"]
    assert [round(wait) for wait in waits[:5]] == [120, 360, 1_080, 3_240, 3_600]
    assert 86_400 <= elapsed <= 90_000


async def test_late_checks_of_an_account_are_bounded_and_wait_for_the_end_of_its_pause(database: Database) -> None:
    await given_up(database)
    await execute(database, "UPDATE poll_tasks SET late_poll_at = now()")
    await execute(
        database,
        "INSERT INTO provider_accounts (provider_id, polls_paused_at, polls_probe_at) VALUES ('bfl', now(), now())",
    )
    assert await late_store(database).claim({"bfl": 2}) == []
    await execute(database, "UPDATE provider_accounts SET polls_paused_at = NULL, polls_probe_at = NULL")
    assert await late_store(database).claim({"bfl": 0}) == []
    assert len(await late_store(database).claim({"bfl": 2})) == 1


async def test_a_hint_makes_the_late_check_due(database: Database) -> None:
    await given_up(database)
    assert await late_store(database).wake("bfl", "t")
    assert len(await late_store(database).claim({"bfl": 2})) == 1
    assert not await late_store(database).wake("bfl", "unknown")
    await settle(database, STORING)
    assert not await late_store(database).wake("bfl", "t"), "what is stored needs no check"


async def test_a_late_result_of_a_batch_leaves_the_batch_as_it_is(database: Database) -> None:
    await execute(
        database,
        """INSERT INTO generation_batches (id, owner, api_key_id, request_id, total_tasks, max_concurrency,
            is_parallel, stop_on_error, estimated_low_usd, estimated_usd, estimated_high_usd, estimated_seconds)
        VALUES ('batch_1', '', 'key_1', 'req_1', 1, 1, true, false, 0, 0, 0, 0)""",
    )
    await given_up(database, batch_id="batch_1", batch_index=0, batch_ref="a")
    counters = "SELECT sum(failed_tasks) AS failed, sum(completed_tasks) AS completed FROM batch_ledger"
    before = await rows(database, counters), await rows(database, "SELECT * FROM generation_batches")
    continued_by = await settle(database, LateResult(State.SUCCESS, outputs=SOURCES))
    assert (await rows(database, counters), await rows(database, "SELECT * FROM generation_batches")) == before
    (late,) = await rows(database, CONTINUATIONS)
    assert (late["id"], late["batch_id"], late["batch_index"]) == (continued_by, None, None)


class _Vendor(Flux):
    """Reports a success for every task; the URL of the task `bad` cannot be stored in a row."""

    def __init__(self) -> None:
        pass

    async def check_task(self, task: Task) -> TaskStatus:
        url = "https://example.com/\x00.png" if task.task_id == "bad" else "https://example.com/1.png"
        return TaskStatus(TaskState.SUCCESS, (ProviderOutput(url=url),))


def _late_checks(database: Database, woken: list[str]) -> LateChecks:
    catalog = SimpleNamespace(current=SimpleNamespace(providers={"bfl": PROVIDER}, models={"flux-pro": MODEL}))
    accounts = SimpleNamespace(adapter=lambda _: _Vendor())
    return LateChecks(
        late_store(database),
        PauseStore(database, PausePolicy()),
        cast("CatalogHolder", catalog),
        Asking(cast("Accounts", accounts)),
        stores_results=lambda: woken.append("stored"),
    )


async def test_late_check_that_raises_costs_none_of_the_others(database: Database) -> None:
    bad = await given_up(database, task_id="bad", submission_id="sub_bad")
    good = await given_up(database)
    await execute(database, "UPDATE poll_tasks SET late_poll_at = now()")
    woken: list[str] = []
    with structlog.testing.capture_logs() as logs:
        assert await _late_checks(database, woken).check() is False
    late = await rows(database, CONTINUATIONS)
    assert [row["continues_id"] for row in late] == [good]
    assert woken == ["stored"]
    assert bad in [entry.get("generation_id") for entry in logs]
    (task,) = await rows(database, "SELECT late_poll_at > now() AS is_due_later FROM poll_tasks WHERE task_id = 'bad'")
    assert task["is_due_later"]
