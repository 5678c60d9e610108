"""Whatever happens to batches, in any order: counters equal the rows, places are never given twice, nothing is lost."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import ClaimedGeneration, DispatchOutcome, Grant
from libs.common.database.states import TRANSITIONS, BatchStatus, State
from libs.common.database.stores.batch_progress import BatchProgressStore
from libs.common.database.stores.batches import BatchStore
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.resuming import Resumed, ResumeStore
from tests.support.batches import PROVIDERS, admit_all, batch, counters, counters_of, look_after, open_batch, tasks
from tests.support.dispatchers import Dispatcher
from tests.support.machines import DatabaseMachine, run_machine
from tests.support.rows import execute, rows

ERROR: dict[str, Any] = {"code": "TASK_FAILED", "message": "no", "details": {}, "is_retryable": False}
OUTPUTS: list[dict[str, Any]] = [{"type": "image", "url": "https://example.com/1.png"}]
RELEASED = {State.PENDING, State.DISPATCHING, State.PROCESSING, State.STORING}
_TURNS = 60
_ids = itertools.count()


class _PowerCut(RuntimeError):
    """Ends a transaction before its commit."""


class Batches(DatabaseMachine):
    """Batches of every kind; what is claimed ends in any way, and at any time."""

    def __init__(self) -> None:
        super().__init__()
        tables = "generation_requests, generation_batches, batch_ledger, batch_dependencies"
        self._do(execute(self.database, f"TRUNCATE {tables} CASCADE"))
        self.states: dict[str, State] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.claimed: list[ClaimedGeneration] = []
        self.dispatcher = Dispatcher(self.database, lease_seconds=1_000)

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Batches that have ended in every way there is, and one that has not."""
        for ends in ((State.SUCCESS,), (State.FAILED,), (State.SUCCESS, State.FAILED), ()):
            batch_id = self._do(open_batch(self.database, 2, max_concurrency=2))
            self.batches[batch_id] = {"is_parallel": True, "max_concurrency": 2, "needs": {}}
            self.claim(2)
            self.only_the_table_is_followed()
            for state in [*ends, *ends][:2]:
                self._end(self.claimed.pop(), state)
            if not ends:
                self._do(BatchStore(self.database, admit_all).request_cancel(batch_id, owner=None))
                for _ in range(2):
                    self._end(self.claimed.pop(), State.CANCELLED)
            self.counters_equal_the_rows()
            self.only_the_table_is_followed()
        self.open(data)
        self.claim(2)

    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, 6))
        is_parallel = data.draw(st.booleans())
        needs = {
            index: sorted(data.draw(st.sets(st.integers(0, index - 1), min_size=1, max_size=2)))
            for index in data.draw(st.sets(st.integers(1, max(1, count - 1)), max_size=3))
            if index < count
        }
        options: dict[str, Any] = {
            "is_parallel": is_parallel,
            "max_concurrency": data.draw(st.integers(1, 3)) if is_parallel else 1,
            "stop_on_error": data.draw(st.booleans()),
        }
        goes_on = sorted(data.draw(st.sets(st.sampled_from(sorted(needs) or [0]), max_size=2)))
        batch_id = self._do(
            open_batch(self.database, count, needs=needs, goes_on=goes_on, providers=PROVIDERS, **options)
        )
        self.batches[batch_id] = {**options, "needs": needs, "count": count}

    @rule(places=st.integers(1, 3))
    def claim(self, places: int) -> None:
        found = self._do(self.dispatcher.claims.claim(PROVIDERS, lambda account: Grant(account, places)))
        self.claimed += found

    @rule(data=st.data(), state=st.sampled_from([State.SUCCESS, State.FAILED, State.CANCELLED, State.PENDING]))
    def end(self, data: st.DataObject, state: State) -> None:
        if self.claimed:
            self._end(self.claimed.pop(data.draw(st.integers(0, len(self.claimed) - 1))), state)

    @rule(state=st.sampled_from([State.SUCCESS, State.FAILED]))
    def end_all_at_once(self, state: State) -> None:
        claimed, self.claimed = self.claimed, []
        self._do(self.dispatcher.end([_outcome(generation, state) for generation in claimed]))

    @rule()
    def look_after(self) -> None:
        self._do(look_after(self.database))

    @rule()
    def look_for_accounts_that_are_full(self) -> None:
        self._do(execute(self.database, "UPDATE generation_requests SET released_at = now() - interval '1 minute'"))
        self._do(look_after(self.database, patience_seconds=1.0))

    @rule(data=st.data())
    def cancel_a_batch(self, data: st.DataObject) -> None:
        self._do(BatchStore(self.database, admit_all).request_cancel(self._any(data), owner=None))

    @rule(data=st.data())
    def cancel_a_generation(self, data: st.DataObject) -> None:
        self._do(CancelStore(self.database).request(data.draw(st.sampled_from(sorted(self.states)))))

    @rule(data=st.data(), codes=st.sampled_from([[], ["TASK_FAILED"], ["SKIPPED"], ["TASK_CANCELLED"]]))
    def resume(self, data: st.DataObject, codes: list[str]) -> None:
        batch_id = self._any(data)
        before = {row["batch_index"]: row["id"] for row in self._do(tasks(self.database, batch_id))
                  if row["state"] == State.SUCCESS}  # fmt: skip
        resumed = self._do(self._resume(batch_id, codes))
        after = {row["batch_index"]: row["id"] for row in self._do(tasks(self.database, batch_id))}
        assert before.items() <= after.items(), "what succeeded was run again"
        assert resumed is not None

    @rule(data=st.data(), what=st.sampled_from(["end", "resume", "look_after"]))
    def power_is_cut(self, data: st.DataObject, what: str) -> None:
        """Before the commit of something: as if it had never begun."""

        async def cut() -> None:
            database = _Cut(self.database)
            if what == "resume":
                await self._resume(self._any(data), [], database)
            elif what == "look_after":
                await BatchProgressStore(database).look_after(PROVIDERS, patience_seconds=1.0)
            else:
                dispatcher = Dispatcher(database, lease_seconds=1_000)
                await dispatcher.end([_outcome(generation, State.SUCCESS) for generation in self.claimed])

        with pytest.raises(_PowerCut):
            self._do(cut())

    @invariant()
    def counters_equal_the_rows(self) -> None:
        for batch_id in self.batches:
            record, found = self._do(batch(self.database, batch_id)), self._do(tasks(self.database, batch_id))
            assert counters_of(record) == counters(found)
            assert [row["batch_index"] for row in found] == list(range(record.total_tasks))
            self.reached.add(record.status)

    @invariant()
    def nobody_goes_out_of_turn(self) -> None:
        for batch_id, given in self.batches.items():
            found = self._do(tasks(self.database, batch_id))
            released = [row["batch_index"] for row in found if row["state"] in RELEASED]
            assert len(released) <= given["max_concurrency"]
            has_ended = [row["ended_at"] is not None for row in found]
            for index in released:
                # One that was released before another was resumed goes on.
                makers = given["needs"].get(index, ()) if given["is_parallel"] else range(index)
                assert all(has_ended[maker] or found[maker]["continues_id"] for maker in makers)

    @invariant()
    def only_the_table_is_followed(self) -> None:
        for row in self._do(rows(self.database, "SELECT id, state, waits_for FROM generation_requests")):
            state, before = State(row["state"]), self.states.get(row["id"], State.HELD)
            # Within one step it may go two: released, and claimed or cancelled.
            ways = TRANSITIONS[before] | {later for way in TRANSITIONS[before] for later in TRANSITIONS[way]}
            assert state is before or state in ways, f"{before} → {state}"
            self.states[row["id"]] = state

    def teardown(self) -> None:
        """Left alone, every batch ends."""
        turns = 0
        while self._do(rows(self.database, "SELECT id FROM generation_batches WHERE ended_at IS NULL")):
            turns += 1
            assert turns < _TURNS, "a batch stays open for ever"
            self.claim(10)
            self.end_all_at_once(State.SUCCESS)
            self._do(look_after(self.database))
        for batch_id in self.batches:
            record = self._do(batch(self.database, batch_id))
            (row,) = self._do(rows(self.database, "SELECT * FROM generation_batches WHERE id = :id", id=batch_id))
            assert record.status is not BatchStatus.PROCESSING
            assert counters_of(record) == {name: row[name] for name in counters_of(record)}, "not all is folded"

    def _any(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.batches)))

    async def _resume(self, batch_id: str, codes: list[str], database: Database | None = None) -> Resumed | None:
        store = ResumeStore(database or self.database, admit_all)
        return await store.resume(batch_id, codes, owner=None, new_id=lambda: f"gen_resumed_{next(_ids):06}")

    def _end(self, generation: ClaimedGeneration, state: State) -> None:
        self._do(self.dispatcher.end([_outcome(generation, state)]))


class _Cut(Database):
    """A database whose transactions do all their work and are then lost."""

    def __init__(self, whole: Database) -> None:
        self.__dict__ = whole.__dict__

    async def transaction(self, name: str, work: Any) -> Any:
        def lost(connection: Any) -> None:
            work(connection)
            raise _PowerCut

        return await super().transaction(name, lost)


def _outcome(generation: ClaimedGeneration, state: State) -> DispatchOutcome:
    facts: dict[str, Any] = {"outputs": OUTPUTS} if state is State.SUCCESS else {}
    if state in {State.FAILED, State.CANCELLED}:
        facts = {"error": ERROR if state is State.FAILED else {**ERROR, "code": "TASK_CANCELLED"}}
    return DispatchOutcome(generation.id, generation.lease_token, state, provider_id=generation.provider_id, **facts)


def test_whatever_happens_to_a_few_counters_equal_the_rows(database_url: str) -> None:
    assert run_machine(Batches, database_url, examples=5, steps=20, is_random=False) <= set(BatchStatus)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_happens_counters_equal_the_rows(database_url: str) -> None:
    assert run_machine(Batches, database_url, examples=25, steps=25) == set(BatchStatus)
