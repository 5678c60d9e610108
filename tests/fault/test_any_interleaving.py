"""Laws 3 and 7: any interleaving of claims, expiries, rescues, cancels, late writers and ends keeps to the table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from libs.common.database.records import (
    Attempt,
    ClaimedGeneration,
    ClaimedResult,
    ClaimedTask,
    DispatchOutcome,
    NewTask,
    PollOutcome,
    StoreOutcome,
)
from libs.common.database.states import TERMINAL, TRANSITIONS, State, SubmissionState, TaskState
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.storing import ResultStore
from tests.support.dispatchers import Dispatcher
from tests.support.machines import DatabaseMachine, run_machine
from tests.support.rows import execute, insert, new_generation, rows

OWNERS = ("one", "two")
WHO = st.sampled_from(OWNERS)
ERROR: dict[str, Any] = {"code": "TASK_FAILED", "message": "no", "details": {}, "is_retryable": False}
OUTPUTS: list[dict[str, Any]] = [{"type": "image", "url": "https://example.com/1.png"}]
_FACTS: dict[State, dict[str, Any]] = {
    State.FAILED: {"error": ERROR},
    State.CANCELLED: {"error": ERROR},
    State.SUCCESS: {"outputs": OUTPUTS},
    State.STORING: {"sources": OUTPUTS},
}
_numbers = itertools.count()
# Not drawn from what there is: what a claim finds follows the database's clock, and draws must not.
PLACE = st.integers(0, 999)
T = TypeVar("T")


def picked(found: Sequence[T], place: int) -> T:
    """One of them."""
    return found[place % len(found)]


class Interleaving(DatabaseMachine):
    """Two processes of each kind that hold on to every claim they ever got, however old, and write with it at will."""

    def __init__(self) -> None:
        super().__init__()
        self._do(execute(self.database, "TRUNCATE generation_requests, submissions, poll_tasks, output_spool CASCADE"))
        self.states: dict[str, State] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.generations: list[tuple[str, ClaimedGeneration]] = []
        self.tasks: list[tuple[str, ClaimedTask]] = []
        self.results: list[tuple[str, ClaimedResult]] = []
        lease = {"lease_seconds": 1_000}
        self.dispatchers = {owner: Dispatcher(self.database, owner=owner, **lease) for owner in OWNERS}
        self.pollers = {owner: PollStore(self.database, owner=owner, **lease) for owner in OWNERS}
        self.storers = {owner: ResultStore(self.database, owner=owner, **lease) for owner in OWNERS}

    @initialize(who=WHO)
    def begin_with_work_of_every_kind(self, who: str) -> None:
        """A generation at the provider, one to be stored, one claimed, one waiting, and all claims held."""
        self.accept(4)
        self.claim(who, 3)
        self.only_the_table_is_followed()
        for (_, claimed), state in zip(list(self.generations), (State.PROCESSING, State.STORING), strict=False):
            self._end_dispatch(who, claimed, state)
        self.all_is_due()
        self.claim_tasks(who)
        self.claim_results(who)

    @rule(count=st.integers(1, 3))
    def accept(self, count: int) -> None:
        self._do(insert(self.database, [new_generation() for _ in range(count)]))

    @rule(who=WHO, places=st.integers(1, 3))
    def claim(self, who: str, places: int) -> None:
        found = self._do(self.dispatchers[who].claim(places))
        self.generations += [(who, claimed) for claimed in found]

    @rule(who=WHO)
    def rescue(self, who: str) -> None:
        self.generations += [(who, claimed) for claimed in self._do(self.dispatchers[who].claims.rescue(5, held=[]))]

    @rule()
    def leases_expire(self) -> None:
        for table in ("generation_requests", "poll_tasks"):
            self._do(
                execute(
                    self.database,
                    f"UPDATE {table} SET lease_until = now() - interval '1 s' WHERE lease_owner IS NOT NULL",
                )
            )

    @rule()
    def all_is_due(self) -> None:
        for table, column in (("generation_requests", "next_attempt_at"), ("poll_tasks", "next_poll_at")):
            sql = f"UPDATE {table} SET {column} = now() - interval '1 s' WHERE ended_at IS NULL"
            self._do(execute(self.database, sql))

    @rule(place=PLACE)
    def record(self, place: int) -> None:
        who, claimed = picked(self.generations, place)
        if claimed.open_submission_id is None and not self._has_open_attempt(claimed.id):
            attempt = Attempt(f"sub_{next(_numbers)}", claimed.id, claimed.lease_token)
            self._expect(
                claimed.id, who, claimed.lease_token, self._do(self.dispatchers[who].record_attempts([attempt]))
            )

    @rule(place=PLACE, state=st.sampled_from(sorted(TRANSITIONS[State.DISPATCHING])))
    def end_dispatch(self, place: int, state: State) -> None:
        who, claimed = picked(self.generations, place)
        self._end_dispatch(who, claimed, state)

    def _end_dispatch(self, who: str, claimed: ClaimedGeneration, state: State) -> None:
        task = NewTask(f"task_{next(_numbers)}", "flux", None, "fixed", 100, 600)
        outcome = DispatchOutcome(
            claimed.id,
            claimed.lease_token,
            state,
            submission_id=self._open_attempt(claimed.id),
            submission_state=SubmissionState.NOT_ACCEPTED if state is State.PENDING else SubmissionState.ACCEPTED,
            task=task if state is State.PROCESSING else None,
            **_FACTS.get(state, {}),
        )
        held = self._holds("generation_requests", "id", claimed.id, who, claimed.lease_token, State.DISPATCHING)
        stays = state in {State.PROCESSING, State.FAILED} or not self._is_cancel_requested(claimed.id)
        expected = (state if stays else State.CANCELLED) if held else None
        assert self._do(self.dispatchers[who].end([outcome])) == [expected]

    @rule(who=WHO)
    def claim_tasks(self, who: str) -> None:
        self.tasks += [(who, task) for task in self._do(self.pollers[who].claim({"bfl": 3}))]

    @rule(place=PLACE, state=st.sampled_from([None, *sorted(TRANSITIONS[State.PROCESSING])]))
    def end_poll(self, place: int, state: State | None) -> None:
        who, task = picked(self.tasks, place)
        ended = {State.FAILED: TaskState.FAILED, State.CANCELLED: TaskState.CANCELLED}
        outcome = PollOutcome(
            *task.lease,
            TaskState.PROCESSING if state is None else ended.get(state, TaskState.SUCCESS),
            generation_state=state,
            **(_FACTS[state] if state else {}),
        )
        held = self._holds("poll_tasks", "task_id", task.task_id, who, task.lease_token, None)
        late = state in {State.STORING, State.SUCCESS} and self._is_cancel_requested(task.generation_id)
        expected = (State.CANCELLED if late else state or State.PROCESSING) if held else None
        assert self._do(self.pollers[who].end([outcome])) == [expected]

    @rule(who=WHO, place=PLACE)
    def take_for_a_report(self, who: str, place: int) -> None:
        """A webhook takes a task from whoever holds it."""
        _, task = picked(self.tasks, place)
        found = self._do(self.pollers[who].take(task.provider_id, task.task_id))
        self.tasks += [(who, found)] if found else []

    @rule(place=PLACE)
    def cancel(self, place: int) -> None:
        generation_id = picked(sorted(self.states), place)
        before = self.states[generation_id]
        answer = self._do(CancelStore(self.database).request(generation_id))
        at_once = before in {State.HELD, State.PENDING, State.STORING}
        assert answer == (None if before in TERMINAL else State.CANCELLED if at_once else before)

    @rule(who=WHO)
    def claim_results(self, who: str) -> None:
        self.results += [(who, result) for result in self._do(self.storers[who].claim(3))]

    @rule(place=PLACE, state=st.sampled_from([State.SUCCESS, State.FAILED, State.STORING]))
    def end_result(self, place: int, state: State) -> None:
        who, result = picked(self.results, place)
        facts = {name: value for name, value in _FACTS[state].items() if name != "sources"}
        held = self._holds("generation_requests", "id", result.id, who, result.lease_token, State.STORING)
        outcome = StoreOutcome(result.id, result.lease_token, state, **facts)
        assert self._do(self.storers[who].end([outcome])) == [held]

    @rule(who=WHO)
    def leave(self, who: str) -> None:
        ids = [claimed.id for owner, claimed in self.generations if owner == who]
        self._do(self.dispatchers[who].claims.give_back(ids))
        self._do(self.pollers[who].give_back())
        self._do(self.storers[who].give_back())

    @invariant()
    def only_the_table_is_followed(self) -> None:
        for row in self._do(rows(self.database, "SELECT * FROM generation_requests")):
            state, before = State(row["state"]), self.states.get(row["id"], State.PENDING)
            assert state is before or state in TRANSITIONS[before], f"{before} → {state}"
            self.states[row["id"]] = state
            self.reached.add(state)
            if state in TERMINAL:
                assert self.ended.setdefault(row["id"], row) == row, "a terminal row has changed"

    @invariant()
    def every_row_makes_sense(self) -> None:
        open_attempts = self._do(rows(self.database, "SELECT generation_id FROM submissions WHERE state = 'STARTED'"))
        ids = [row["generation_id"] for row in open_attempts]
        assert len(ids) == len(set(ids))
        orphans = self._do(
            rows(
                self.database,
                "SELECT g.id FROM generation_requests g LEFT JOIN poll_tasks t ON t.generation_id = g.id "
                "AND t.ended_at IS NULL WHERE g.state = 'PROCESSING' AND t.task_id IS NULL",
            )
        )
        assert orphans == [], "nobody polls for these"

    def _holds(self, table: str, key: str, value: str, *lease: Any) -> bool:
        who, token, state = lease
        sql = f"SELECT 1 FROM {table} WHERE {key} = :value AND lease_owner = :who AND lease_token = :token"
        if state is not None:
            sql += f" AND state = '{state}'"
        elif table == "poll_tasks":
            sql += " AND ended_at IS NULL"
        return bool(self._do(rows(self.database, sql, value=value, who=who, token=token)))

    def _expect(self, generation_id: str, who: str, token: int, written: list[bool]) -> None:
        held = self._holds("generation_requests", "id", generation_id, who, token, State.DISPATCHING)
        assert written == [held and not self._is_cancel_requested(generation_id)]

    def _is_cancel_requested(self, generation_id: str) -> bool:
        sql = "SELECT 1 FROM generation_requests WHERE id = :id AND cancel_requested_at IS NOT NULL"
        return bool(self._do(rows(self.database, sql, id=generation_id)))

    def _open_attempt(self, generation_id: str) -> str | None:
        sql = "SELECT id FROM submissions WHERE generation_id = :id AND state = 'STARTED'"
        found = self._do(rows(self.database, sql, id=generation_id))
        return found[0]["id"] if found else None

    def _has_open_attempt(self, generation_id: str) -> bool:
        return self._open_attempt(generation_id) is not None


def test_any_interleaving_keeps_to_the_table(database_url: str) -> None:
    # Nothing here makes batches, which alone hold.
    assert run_machine(Interleaving, database_url, examples=40, steps=40) == set(State) - {State.HELD}
