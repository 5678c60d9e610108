"""Laws 3 and 7: any interleaving of claims, lost replies, renewals, expiries, rescues, cancels and late writers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from libs.common.database.records import Lease
from libs.common.database.records_dispatch import Attempt, ClaimedGeneration, DispatchOutcome, NewTask
from libs.common.database.records_tasks import ClaimedResult, ClaimedTask, PollOutcome, StoreOutcome
from libs.common.database.states import TERMINAL, TRANSITIONS, State, SubmissionState, TaskState
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.storing import ResultStore
from services.dispatcher.leases import Leases
from tests.support.dispatchers import Dispatcher
from tests.support.machines import DatabaseMachine, run_machine
from tests.support.rows import execute, insert, new_generation, rows

OWNERS = ("one", "two")
LEASE_SECONDS = 1_000.0
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
# How long a reply takes; None: it never comes.
REPLY_SECONDS = st.sampled_from([0.0, 0.0, LEASE_SECONDS / 2, LEASE_SECONDS, None])
T = TypeVar("T")


def picked(found: Sequence[T], place: int) -> T:
    """One of them."""
    return found[place % len(found)]


class Interleaving(DatabaseMachine):
    """Two processes of each kind that hold on to every claim they ever got, however old, and write with it at will.

    A process keeps working while replies to its claims and renewals are lost. Its clock is `now`, in seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._do(execute(self.database, "TRUNCATE generation_requests, submissions, poll_tasks, output_spool CASCADE"))
        self.states: dict[str, State] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.generations: list[tuple[str, ClaimedGeneration]] = []
        self.tasks: list[tuple[str, ClaimedTask]] = []
        self.results: list[tuple[str, ClaimedResult]] = []
        self.now = 0.0
        self.leases = {owner: Leases(LEASE_SECONDS, clock=lambda: self.now) for owner in OWNERS}
        self.written: dict[tuple[str, Lease], tuple[Any, Any]] = {}
        self.permits: list[tuple[str, Attempt, Callable[[], bool]]] = []
        lease: dict[str, Any] = {"lease_seconds": LEASE_SECONDS}
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

    @rule(who=WHO, places=st.integers(1, 3), reply_seconds=REPLY_SECONDS)
    def claim(self, who: str, places: int, reply_seconds: float | None = 0.0) -> None:
        asked_at = self.now
        self._take_in(who, asked_at, reply_seconds, self._do(self.dispatchers[who].claim(places)))

    @rule(who=WHO, reply_seconds=REPLY_SECONDS)
    def rescue(self, who: str, reply_seconds: float | None) -> None:
        asked_at = self.now
        self._take_in(who, asked_at, reply_seconds, self._do(self.dispatchers[who].claims.rescue(5, held=[])))

    def _take_in(
        self, who: str, asked_at: float, reply_seconds: float | None, found: Sequence[ClaimedGeneration]
    ) -> None:
        """What a claim has found reaches its process after a while, or never (None)."""
        if reply_seconds is None:
            return
        self._let_pass(reply_seconds)
        for claimed in found:
            self.leases[who].begin(claimed.claim, asked_at=asked_at)
            self.generations.append((who, claimed))

    @rule(seconds=st.sampled_from([LEASE_SECONDS / 3, LEASE_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self._let_pass(seconds)

    def _let_pass(self, seconds: float) -> None:
        """Let time pass everywhere: the rows' leases come nearer to their ends."""
        self.now += seconds
        for table in ("generation_requests", "poll_tasks"):
            sql = f"UPDATE {table} SET lease_until = lease_until - make_interval(secs => :seconds)"
            self._do(execute(self.database, f"{sql} WHERE lease_owner IS NOT NULL", seconds=seconds))

    @rule(who=WHO, reply_seconds=REPLY_SECONDS)
    def renew(self, who: str, reply_seconds: float | None) -> None:
        """A process renews all claims that it ever knew: the database renews the held ones, and no others."""
        asked_at, before = self.now, self._rows_with_leases()
        generations = [claimed.claim for owner, claimed in self.generations if owner == who]
        tasks = [task.claim for owner, task in self.tasks if owner == who]
        results = [result.claim for owner, result in self.results if owner == who]
        confirmed = self._do(self.dispatchers[who].claims.renew(generations))
        self._do(self.pollers[who].renew(tasks))
        self._do(self.storers[who].renew(results))
        held = {"DISPATCHING": generations, "STORING": results, "task": tasks}
        for key, after in self._rows_with_leases().items():
            kind, generation_id, owner, token, _ = before[key]
            is_held = owner == who and Lease(generation_id, token) in held[kind]
            assert (after != before[key]) == is_held, f"{kind} {generation_id} of {owner} with token {token}"
        assert set(confirmed) == {
            Lease(generation_id, token)
            for kind, generation_id, owner, token, _ in before.values()
            if kind == "DISPATCHING" and owner == who and Lease(generation_id, token) in generations
        }
        if reply_seconds is not None:
            self._let_pass(reply_seconds)
            self.leases[who].renew(confirmed, asked_at=asked_at)

    def _rows_with_leases(self) -> dict[tuple[str, str], tuple[str, str, str, int, Any]]:
        """Each row that is claimed: its kind, its generation, owner, token, and when its lease ends."""
        sql = """
            SELECT state AS kind, id, lease_owner, lease_token, lease_until FROM generation_requests
            WHERE lease_owner IS NOT NULL
            UNION ALL
            SELECT 'task', generation_id, lease_owner, lease_token, lease_until FROM poll_tasks
            WHERE lease_owner IS NOT NULL"""
        return {
            (row["kind"], row["id"]): (
                row["kind"],
                row["id"],
                row["lease_owner"],
                row["lease_token"],
                row["lease_until"],
            )
            for row in self._do(rows(self.database, sql))
        }

    @rule()
    def leases_expire(self) -> None:
        self.now += LEASE_SECONDS
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
            permit = self.leases[who].permit(claimed.claim)
            written = self._do(self.dispatchers[who].record_attempts([attempt]))
            self._expect(claimed.id, who, claimed.lease_token, written)
            if written == [True]:
                self.permits.append((who, attempt, permit))

    @invariant()
    def what_may_leave_has_a_lease_that_has_not_ended(self) -> None:
        """A process that believes that it may send holds the row, and nobody can take that over."""
        permitted = [(who, attempt) for who, attempt, may_leave in self.permits if may_leave()]
        if not permitted:
            return
        sql = """
            SELECT s.id, lease_owner, lease_token, lease_until > now() AS is_live FROM generation_requests g
            JOIN submissions s ON s.generation_id = g.id AND s.state = 'STARTED'"""
        started = {row["id"]: row for row in self._do(rows(self.database, sql))}
        for who, attempt in permitted:
            row = started.get(attempt.submission_id)
            held = (who, attempt.lease_token, True)
            assert row is None or (row["lease_owner"], row["lease_token"], row["is_live"]) == held, (
                f"{who} would send {attempt.submission_id} without its lease"
            )

    @rule(place=PLACE, state=st.sampled_from(sorted(TRANSITIONS[State.DISPATCHING])))
    def end_dispatch(self, place: int, state: State) -> None:
        who, claimed = picked(self.generations, place)
        if not self._is_written_again(who, claimed.claim, self.dispatchers[who].end):
            self._end_dispatch(who, claimed, state)

    def _is_written_again(
        self, who: str, claim: Lease, end: Callable[[list[Any]], Coroutine[Any, Any, Sequence[Any]]]
    ) -> bool:
        """A claim has one outcome. Without a reply that is written again, and answered as before or as lost."""
        if (who, claim) not in self.written:
            return False
        outcome, answer = self.written[who, claim]
        assert self._do(end([outcome]))[0] in {answer, None, False}
        return True

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
        if expected is not None:
            self.written[who, claimed.claim] = outcome, expected
            assert self._do(self.dispatchers[who].end([outcome])) == [expected]

    @rule(who=WHO, is_lost=st.booleans())
    def claim_tasks(self, who: str, is_lost: bool = False) -> None:
        found = self._do(self.pollers[who].claim({"bfl": 3}))
        self.tasks += [] if is_lost else [(who, task) for task in found]

    @rule(place=PLACE, state=st.sampled_from([None, *sorted(TRANSITIONS[State.PROCESSING])]))
    def end_poll(self, place: int, state: State | None) -> None:
        who, task = picked(self.tasks, place)
        if self._is_written_again(f"{who} polls", task.claim, self.pollers[who].end):
            return
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
        if expected is None and state is State.STORING:
            # What the provider may tell only once is written under a lease of its own.
            taken = self._do(self.pollers[who].take(task.provider_id, task.task_id))
            if taken is not None:
                written = self._do(self.pollers[who].end([replace(outcome, lease_token=taken.lease_token)]))
                assert written[0] in {State.STORING, State.CANCELLED}
        if expected is not None:
            self.written[f"{who} polls", task.claim] = outcome, expected
            assert self._do(self.pollers[who].end([outcome])) == [expected]

    @rule(who=WHO, place=PLACE, is_lost=st.booleans())
    def take_for_a_report(self, who: str, place: int, is_lost: bool) -> None:
        """A webhook takes a task from its holder."""
        _, task = picked(self.tasks, place)
        found = self._do(self.pollers[who].take(task.provider_id, task.task_id))
        self.tasks += [(who, found)] if found and not is_lost else []

    @rule(place=PLACE)
    def cancel(self, place: int) -> None:
        generation_id = picked(sorted(self.states), place)
        before = self.states[generation_id]
        answer = self._do(CancelStore(self.database).request(generation_id))
        at_once = before in {State.HELD, State.PENDING, State.STORING}
        assert answer == (None if before in TERMINAL else State.CANCELLED if at_once else before)

    @rule(who=WHO, is_lost=st.booleans())
    def claim_results(self, who: str, is_lost: bool = False) -> None:
        found = self._do(self.storers[who].claim(3))
        self.results += [] if is_lost else [(who, result) for result in found]

    @rule(place=PLACE, state=st.sampled_from([State.SUCCESS, State.FAILED, State.STORING]))
    def end_result(self, place: int, state: State) -> None:
        who, result = picked(self.results, place)
        if self._is_written_again(f"{who} stores", result.claim, self.storers[who].end):
            return
        facts = {name: value for name, value in _FACTS[state].items() if name != "sources"}
        held = self._holds("generation_requests", "id", result.id, who, result.lease_token, State.STORING)
        outcome = StoreOutcome(result.id, result.lease_token, state, **facts)
        assert self._do(self.storers[who].end([outcome])) == [held]
        if not held and state is State.SUCCESS:
            token = self._do(self.storers[who].take(result.id))
            is_waiting = self.states[result.id] is State.STORING
            assert (token is not None) is is_waiting
            if token is not None:
                assert self._do(self.storers[who].end([replace(outcome, lease_token=token)])) == [True]
        if held:
            self.written[f"{who} stores", result.claim] = outcome, True
            assert self._do(self.storers[who].end([outcome])) == [True]

    @rule(who=WHO)
    def leave(self, who: str) -> None:
        claims = [claimed.claim for owner, claimed in self.generations if owner == who]
        self._do(self.dispatchers[who].claims.give_back(claims))
        self._do(self.pollers[who].give_back([task.claim for owner, task in self.tasks if owner == who]))
        self._do(self.storers[who].give_back([result.claim for owner, result in self.results if owner == who]))

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


def test_any_short_interleaving_keeps_to_the_table(database_url: str) -> None:
    assert run_machine(Interleaving, database_url, examples=20, steps=30, is_random=False) <= set(State)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_interleaving_keeps_to_the_table(database_url: str) -> None:
    # Nothing here makes batches, which alone hold.
    all_states = set(State) - {State.HELD}
    reached = run_machine(Interleaving, database_url, examples=40, steps=40)
    if reached != all_states:
        # Runs are random, and few.
        reached |= run_machine(Interleaving, database_url, examples=80, steps=40)
    assert reached == all_states
