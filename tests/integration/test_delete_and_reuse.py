"""A delete and a reuse of the same result, in every interleaving: a reuse that answered SUCCESS has its object."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.database.engine import Database
from libs.common.database.records_batches import BatchOptions, BatchRequest, Estimated, NewBatch
from libs.common.database.records_edge import Accepted, NewRequest
from libs.common.database.stores.batches import BatchStore, part_rows
from libs.common.database.stores.generations import GenerationStore
from libs.common.database.stores.intake import IntakeStore
from libs.common.ids import new_id
from tests.support.batches import admit_all
from tests.support.rows import admit_every, execute, insert, new_generation, rows

Way = Literal["single", "batch"]
HASH = "ab" * 16
KEY = "results/1.png"
_owners = itertools.count()
_SUCCEEDED = """
UPDATE generation_requests SET state = 'SUCCESS', ended_at = now(), cost_usd = 0.04,
    outputs = '[{"type": "image", "object_key": "results/1.png", "content_type": "image/png", "size_bytes": 9}]'
WHERE id = :id"""
_WAITS_FOR_A_LOCK = "SELECT 1 FROM pg_stat_activity WHERE pid = :pid AND wait_event_type = 'Lock'"


class Held(Database):
    """A database whose transactions do their work and wait with the commit until they are released."""

    def __init__(self, whole: Database) -> None:
        self.__dict__ = dict(whole.__dict__)
        self.released = threading.Event()
        self.has_worked = threading.Event()
        self.pid: int | None = None

    async def transaction(self, name: str, work: Any) -> Any:
        def held(connection: Any) -> Any:
            self.pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            answer = work(connection)
            self.has_worked.set()
            assert self.released.wait(30)
            return answer

        return await super().transaction(name, held)


class Step:
    """A call in progress, held before its commit or waiting for a lock."""

    def __init__(self, database: Database, call: Callable[[Database], Awaitable[Any]]) -> None:
        self._whole = database
        self.held = Held(database)
        self.task = asyncio.ensure_future(call(self.held))

    async def has_gone_as_far_as_it_can(self) -> None:
        """Wait until the call holds its commit, has ended, or waits for a lock."""
        deadline = time.monotonic() + 30
        while not (self.held.has_worked.is_set() or self.task.done()):
            if await rows(self._whole, _WAITS_FOR_A_LOCK, pid=self.held.pid):
                return
            assert time.monotonic() < deadline, "the call neither commits nor ends nor waits for a lock"


async def _source(database: Database, owner: str) -> str:
    generation = new_generation(id=new_id("gen"), owner=owner, request_hash=HASH)
    await insert(database, [generation])
    await execute(database, _SUCCEEDED, id=generation.id)
    return generation.id


def _reuse(way: Way, owner: str, generation_id: str) -> Callable[[Database], Awaitable[Any]]:
    generation = new_generation(id=generation_id, owner=owner, request_hash=HASH)

    async def single(database: Database) -> None:
        request = NewRequest(generation, reuse_within_seconds=600)
        (answer,) = await IntakeStore(database, admit_every).accept([request])
        assert isinstance(answer, Accepted)

    async def of_batch(database: Database) -> None:
        batch = NewBatch(new_id("batch"), owner, "", "req_1", 1, BatchOptions(), Estimated(), 0.0, is_bounded=False)
        part = BatchRequest(replace(generation, batch_id=batch.id, batch_index=0), reuse_within_seconds=600)
        store = BatchStore(database, admit_all)
        if isinstance(database, Held):
            whole = Database.__new__(Database)
            whole.__dict__ = dict(database.__dict__)
            await BatchStore(whole, admit_all).put(batch.id, 0, part_rows([part]))
        await store.open(batch, [], parts=1)

    return single if way == "single" else of_batch


def _delete(owner: str, generation_id: str) -> Callable[[Database], Awaitable[list[str] | None]]:
    return lambda database: GenerationStore(database).delete(generation_id, owner=owner)


async def _shown(database: Database, owner: str) -> list[str]:
    sql = """SELECT id FROM generation_requests
        WHERE owner = :owner AND state = 'SUCCESS' AND deleted_at IS NULL ORDER BY id"""
    return [row["id"] for row in await rows(database, sql, owner=owner)]


@pytest.mark.parametrize("way", ["single", "batch"])
async def test_a_delete_sees_a_reuse_that_was_there_first(database: Database, way: Way) -> None:
    source = await _source(database, "shop")
    reuse = Step(database, _reuse(way, "shop", new_id("gen")))
    await reuse.has_gone_as_far_as_it_can()
    delete = Step(database, _delete("shop", source))
    delete.held.released.set()
    await delete.has_gone_as_far_as_it_can()
    reuse.held.released.set()
    await reuse.task
    assert await delete.task == [], "the reuse shows the object"
    assert len(await _shown(database, "shop")) == 1


@pytest.mark.parametrize("way", ["single", "batch"])
async def test_a_reuse_does_not_take_what_is_being_deleted(database: Database, way: Way) -> None:
    source = await _source(database, "shop")
    delete = Step(database, _delete("shop", source))
    await delete.has_gone_as_far_as_it_can()
    reuse = Step(database, _reuse(way, "shop", new_id("gen")))
    reuse.held.released.set()
    await reuse.has_gone_as_far_as_it_can()
    delete.held.released.set()
    assert await delete.task == [KEY]
    await reuse.task
    assert await _shown(database, "shop") == []
    (row,) = await rows(database, "SELECT state, reused_from_id FROM generation_requests WHERE id <> :id", id=source)
    assert (row["state"] in {"PENDING", "HELD"}, row["reused_from_id"]) == (True, None)


async def test_a_reuse_takes_another_result_where_the_newest_is_being_deleted(database: Database) -> None:
    older, newest = await _source(database, "shop"), await _source(database, "shop")
    delete = Step(database, _delete("shop", newest))
    await delete.has_gone_as_far_as_it_can()
    reuse = Step(database, _reuse("single", "shop", "gen_reuse"))
    reuse.held.released.set()
    await reuse.has_gone_as_far_as_it_can()
    delete.held.released.set()
    await asyncio.gather(delete.task, reuse.task)
    (row,) = await rows(database, "SELECT reused_from_id FROM generation_requests WHERE id = 'gen_reuse'")
    assert row["reused_from_id"] == older


async def test_the_last_one_that_shows_an_object_gives_it_up(database: Database) -> None:
    source = await _source(database, "shop")
    reuses = [new_id("gen"), new_id("gen")]
    for generation_id in reuses:
        await _reuse("single", "shop", generation_id)(database)
    assert await _delete("shop", source)(database) == []
    first = Step(database, _delete("shop", reuses[0]))
    await first.has_gone_as_far_as_it_can()
    second = Step(database, _delete("shop", reuses[1]))
    second.held.released.set()
    await second.has_gone_as_far_as_it_can()
    first.held.released.set()
    assert [await first.task, await second.task] == [[], [KEY]]


Plan = tuple[str, int, bool]
PLANS = st.lists(
    st.tuples(st.sampled_from(["single", "batch", "delete"]), st.integers(0, 6), st.booleans()), min_size=2, max_size=6
)


async def _interleave(database: Database, plans: Sequence[Plan], order: Sequence[int]) -> tuple[list[str], list[str]]:
    """Run steps of which some hold their commit until all have begun.

    Args:
        database: where all steps run at once, for an owner of their own.
        plans: of each step: what it does, the index of the generation that it deletes, whether it holds its commit.
        order: the indexes of the steps in which commits are released.

    Returns the ids of the generations that show the object at the end, and the keys of the objects that were removed.
    """
    owner = f"owner_{next(_owners)}"
    ids = [await _source(database, owner)]
    steps: list[Step] = []
    for kind, number, is_held in plans:
        if kind == "delete":
            step = Step(database, _delete(owner, ids[number % len(ids)]))
        else:
            ids.append(new_id("gen"))
            step = Step(database, _reuse("single" if kind == "single" else "batch", owner, ids[-1]))
        steps.append(step)
        if not is_held:
            step.held.released.set()
        await step.has_gone_as_far_as_it_can()
    for place in order:
        if place < len(steps):
            steps[place].held.released.set()
    answers = await asyncio.gather(*(step.task for step in steps))
    removed = [key for answer in answers if answer for key in answer]
    return await _shown(database, owner), removed


def test_no_interleaving_removes_an_object_that_is_shown(database_url: str) -> None:
    database = Database(database_url, size=8, statement_timeout_seconds=20, application_name="test")
    with asyncio.Runner() as runner:

        @settings(max_examples=25, deadline=None, database=None)
        @given(plans=PLANS, order=st.permutations(range(6)))
        def check(plans: list[Plan], order: list[int]) -> None:
            shown, removed = runner.run(_interleave(database, plans, order))
            assert not (shown and removed), f"{shown} show an object that was removed"
            assert shown or removed == [KEY], "an object that no generation shows is left, or was removed twice"

        check()
        runner.run(database.close())
