"""Law 13: after any sequence of attempts, ends and resolutions, each sum of money is what its rows come to."""

from __future__ import annotations

import itertools
from collections import defaultdict
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from libs.common.database.records_dispatch import Attempt, NewTask
from libs.common.database.records_tasks import PollOutcome, StoreOutcome
from libs.common.database.states import State, SubmissionState, TaskState
from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.database.stores.billing import BillingStore, SubmissionFilter
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.statistics import StatisticsStore
from libs.common.database.stores.storing import ResultStore
from libs.common.database.stores.submissions import Decision, SubmissionStore
from libs.common.errors import GenerationError
from tests.support.dispatchers import Dispatcher, attempt_outcome
from tests.support.machines import DatabaseMachine, run_machine
from tests.support.rows import execute, insert, insert_key, new_generation, rows

ERROR: dict[str, Any] = {"code": "TASK_FAILED", "message": "no", "details": {}, "is_retryable": False}
OUTPUTS: list[dict[str, Any]] = [{"type": "image", "url": "https://example.com/1.png"}]
KEYS = ("key_a", "key_b", "")
# Sums of floats would not come out even of these.
PRICES = (0.1, 0.000_001, 0.042, 1.3)
PLACE = st.integers(0, 999)
_TABLES = (
    "generation_requests, submissions, poll_tasks, output_spool, api_key_ledger, api_key_spend, api_key_usage, "
    "api_keys, statistics_ledger, statistics, provider_accounts"
)
_MONTH = "CAST(date_trunc('month', {} AT TIME ZONE 'UTC') AS date)"
_RECOUNT = f"""
SELECT api_key_id, month, sum(reserved) AS reserved, sum(spent) AS spent, sum(risk) AS risk FROM (
    SELECT api_key_id, {_MONTH.format("created_at")} AS month,
        CASE WHEN ended_at IS NULL THEN reserved_usd ELSE 0 END AS reserved,
        CASE WHEN ended_at IS NOT NULL THEN round(CAST(COALESCE(cost_usd, 0) AS numeric), 6) ELSE 0 END AS spent,
        0 AS risk
    FROM generation_requests
    UNION ALL SELECT g.api_key_id, {_MONTH.format("s.started_at")}, 0, s.spent_usd, s.at_risk_usd
    FROM submissions s JOIN generation_requests g ON g.id = s.generation_id) lines
WHERE api_key_id <> '' GROUP BY 1, 2"""
_KEPT = """
SELECT api_key_id, month, sum(reserved_usd) AS reserved, sum(spent_usd) AS spent, sum(at_risk_usd) AS risk FROM (
    SELECT api_key_id, month, reserved_usd, spent_usd, at_risk_usd FROM api_key_ledger
    UNION ALL SELECT api_key_id, month, reserved_usd, spent_usd, at_risk_usd FROM api_key_spend) lines
GROUP BY 1, 2"""
_STATISTICS = """
SELECT kind, model_identifier, CAST(at AT TIME ZONE 'UTC' AS date) AS day, sum(cost_usd) AS usd FROM (
    SELECT kind, model_identifier, at, cost_usd FROM statistics_ledger
    UNION ALL SELECT kind, model_identifier, at, cost_usd FROM statistics WHERE period = 'day') lines
WHERE kind IN ('generation_ended', 'money_spent', 'money_at_risk') GROUP BY 1, 2, 3"""
_STATISTICS_RECOUNT = """
SELECT 'generation_ended' AS kind, model_identifier, CAST(ended_at AT TIME ZONE 'UTC' AS date) AS day,
    sum(cost_usd) AS usd FROM generation_requests WHERE cost_usd > 0 AND ended_at IS NOT NULL GROUP BY 2, 3
UNION ALL SELECT 'money_spent', model_identifier, CAST(started_at AT TIME ZONE 'UTC' AS date),
    CAST(sum(spent_usd) AS float) FROM submissions GROUP BY 2, 3
UNION ALL SELECT 'money_at_risk', model_identifier, CAST(started_at AT TIME ZONE 'UTC' AS date),
    CAST(sum(at_risk_usd) AS float) FROM submissions GROUP BY 2, 3"""
_numbers = itertools.count()


class Money(DatabaseMachine):
    """Generations of two keys and of none; what becomes of them, and what operators and the monitor say about it."""

    def __init__(self) -> None:
        super().__init__()
        self._do(execute(self.database, f"TRUNCATE {_TABLES} CASCADE"))
        for key in KEYS[:2]:
            self._do(insert_key(self.database, key))
        self.same_ids: set[str] = set()
        self.given_up: set[str] = set()
        self.dispatcher = Dispatcher(self.database)
        self.poller = PollStore(self.database, owner="one", lease_seconds=30)
        self.storer = ResultStore(self.database, owner="one", lease_seconds=30)
        self.submissions = SubmissionStore(self.database)
        self.billing = BillingStore(self.database)

    @initialize()
    def begin_with_money_at_risk_of_this_month_and_of_an_earlier_one(self) -> None:
        for key, is_old in (("key_a", True), ("key_b", False)):
            self.accept(key, 0.1, "a")
            self.attempt("lost", 0.1, is_old)

    @rule(key=st.sampled_from(KEYS), price=st.sampled_from(PRICES), model=st.sampled_from(["a", "b"]))
    def accept(self, key: str, price: float, model: str) -> None:
        fields = {"api_key_id": key, "expected_cost_usd": price, "reserved_usd": price, "model_identifier": model}
        self._do(insert(self.database, [new_generation(**fields)]))

    @rule(
        how=st.sampled_from(
            ["accepted", "completed", "stored", "refused", "retried", "lost", "resubmitted", "same id"]
        ),
        price=st.sampled_from(PRICES),
        is_old=st.booleans(),
    )
    def attempt(self, how: str, price: float, is_old: bool) -> None:
        self._do(
            execute(self.database, "UPDATE generation_requests SET next_attempt_at = now() WHERE state = 'PENDING'")
        )
        for claimed in self._do(self.dispatcher.claim(1)):
            submission_id = f"sub_{next(_numbers):06}"
            self._do(self.dispatcher.record_attempts([Attempt(submission_id, claimed.id, claimed.lease_token)]))
            if is_old:
                sql = "UPDATE submissions SET started_at = now() - interval '40 days' WHERE id = :id"
                self._do(execute(self.database, sql, id=submission_id))
            self.same_ids |= {submission_id} if how == "same id" else set()
            state, submission_state, facts = _OUTCOMES[how]
            if how in {"completed", "stored"}:
                facts = {**facts, "cost_usd": price}
            if how == "accepted":
                facts = {**facts, "task": NewTask(f"task_{submission_id}", "flux", None, "fixed", 100, 600)}
            outcome = attempt_outcome(claimed, submission_id, state, submission_state, **facts)
            assert self._do(self.dispatcher.end([outcome])) != [None]

    @rule(how=st.sampled_from(["succeeded", "stored", "failed", "given up"]), price=st.sampled_from(PRICES))
    def poll(self, how: str, price: float) -> None:
        self._do(execute(self.database, "UPDATE poll_tasks SET next_poll_at = now() WHERE ended_at IS NULL"))
        for task in self._do(self.poller.claim({"bfl": 1})):
            state, task_state, facts = _ENDS[how]
            cost_usd = price if how in {"succeeded", "stored"} else None
            outcome = PollOutcome(*task.lease, task_state, generation_state=state, cost_usd=cost_usd, **facts)
            self._do(self.poller.end([outcome]))
            if how == "given up":
                sql = """UPDATE submissions SET at_risk_usd = expected_cost_usd
                    WHERE provider_task_id = :task_id AND state = 'ACCEPTED' AND billing IS NULL RETURNING id"""
                self.given_up |= {row["id"] for row in self._do(rows(self.database, sql, task_id=task.task_id))}

    @rule(state=st.sampled_from([State.SUCCESS, State.FAILED]))
    def store(self, state: State) -> None:
        for result in self._do(self.storer.claim(1)):
            facts: dict[str, Any] = {"outputs": OUTPUTS} if state is State.SUCCESS else {"error": ERROR}
            self._do(self.storer.end([StoreOutcome(result.id, result.lease_token, state, **facts)]))

    @rule(place=PLACE)
    def cancel(self, place: int) -> None:
        found = self._do(rows(self.database, "SELECT id FROM generation_requests ORDER BY id"))
        if found:
            self._do(CancelStore(self.database).request(found[place % len(found)]["id"]))

    @rule(
        place=PLACE,
        resolution=st.sampled_from([None, "ATTACHED", "RESUBMITTED", "DISMISSED"]),
        billing=st.sampled_from([None, "BILLED", "NOT_BILLED"]),
        cost_usd=st.sampled_from([None, *PRICES]),
    )
    def resolve(self, place: int, resolution: Any, billing: Any, cost_usd: float | None) -> None:
        found = self._do(rows(self.database, "SELECT id FROM submissions ORDER BY id"))
        if not found:
            return
        number = next(_numbers)
        attached = resolution == "ATTACHED"
        decision = Decision(
            resolution,
            None if attached else billing,
            cost_usd if billing == "BILLED" and not attached else None,
            NewTask(f"attached_{number}", "flux", None, "fixed", 100, 600) if attached else None,
            accepted_usd=100.0,
        )
        submission_id = found[place % len(found)]["id"]
        try:
            first = self._do(self.submissions.resolve(submission_id, decision, new_id=f"gen_x{number:05}"))
            again = self._do(self.submissions.resolve(submission_id, decision, new_id=f"gen_y{number:05}"))
        except GenerationError:
            return
        assert again == first
        self.reached.add((resolution, decision.billing))

    @rule(answer=st.sampled_from(["BILLED", "NOT_BILLED"]), dismiss=st.booleans(), model=st.sampled_from([None, "a"]))
    def resolve_many(self, answer: Any, dismiss: bool, model: str | None) -> None:
        wanted = SubmissionFilter(model_identifier=model)
        expected = self._do(self.billing.preview(wanted, answer, dismiss=dismiss))
        done = self._do(self.billing.resolve_all(wanted, answer, dismiss=dismiss, note=""))
        assert (done.submissions, round(done.at_risk_usd, 6)) == (expected.submissions, round(expected.at_risk_usd, 6))
        self.reached |= {"resolved many"} if done.submissions else set()

    @rule()
    def count(self) -> None:
        number, _ = self._do(self.billing.count_old(days=7, limit=2))
        self.reached |= {"counted"} if number else set()

    @rule(usage=st.booleans(), statistics=st.booleans())
    def add_up(self, usage: bool, statistics: bool) -> None:
        if usage:
            self._do(ApiKeyStore(self.database).add_up())
        if statistics:
            self._do(StatisticsStore(self.database).fold(100))

    @invariant()
    def sums_are_what_rows_come_to(self) -> None:
        assert self._sums(_KEPT) == self._sums(_RECOUNT)
        assert self._by_day(_STATISTICS) == self._by_day(_STATISTICS_RECOUNT)

    @invariant()
    def what_may_have_been_billed_is_at_risk_and_nothing_else(self) -> None:
        by_generation: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        sql = """SELECT s.*, g.ended_at IS NULL AS is_live FROM submissions s
            JOIN generation_requests g ON g.id = s.generation_id ORDER BY s.attempt"""
        for row in self._do(rows(self.database, sql)):
            by_generation[row["generation_id"]].append(row)
        for attempts in by_generation.values():
            for place, row in enumerate(attempts):
                later = {other["state"] for other in attempts[place + 1 :]}
                expected = row["expected_cost_usd"] if self._may_be_billed(row, later) else Decimal(0)
                assert row["at_risk_usd"] == expected, row
                assert not (row["at_risk_usd"] and row["spent_usd"])

    def _may_be_billed(self, row: dict[str, Any], later: set[str]) -> bool:
        if row["billing"] is not None:
            return False
        if row["state"] == "ACCEPTED":
            return row["id"] in self.given_up
        if row["id"] in self.same_ids:
            told = later & {"UNCERTAIN", "ACCEPTED", "COMPLETED"}
            return bool(row["state"] == "UNCERTAIN" and not row["is_live"] and not told)
        return bool(row["state"] == "UNCERTAIN")

    def teardown(self) -> None:
        """Once all has ended and is resolved, nothing is reserved and nothing is at risk."""
        for row in self._do(rows(self.database, "SELECT id FROM generation_requests WHERE ended_at IS NULL")):
            self._do(CancelStore(self.database).request(row["id"]))
        self._do(execute(self.database, "UPDATE poll_tasks SET next_poll_at = now() WHERE ended_at IS NULL"))
        for task in self._do(self.poller.claim({"bfl": 100})):
            outcome = PollOutcome(*task.lease, TaskState.CANCELLED, generation_state=State.CANCELLED, error=ERROR)
            self._do(self.poller.end([outcome]))
        self._do(self.billing.resolve_all(SubmissionFilter(), "BILLED", dismiss=True, note=""))
        self.sums_are_what_rows_come_to()
        for _, reserved, _, risk in self._sums(_KEPT):
            assert (reserved, risk) == (0, 0)

    def _sums(self, sql: str) -> set[tuple[Any, ...]]:
        found = self._do(rows(self.database, sql))
        sums = {((row["api_key_id"], row["month"]), row["reserved"], row["spent"], row["risk"]) for row in found}
        return {line for line in sums if any(line[1:])}

    def _by_day(self, sql: str) -> dict[tuple[Any, ...], float]:
        found = self._do(rows(self.database, sql))
        sums = {(row["kind"], row["model_identifier"], row["day"]): round(row["usd"], 6) for row in found}
        return {key: usd for key, usd in sums.items() if usd}


_OUTCOMES: dict[str, tuple[State, SubmissionState, dict[str, Any]]] = {
    "accepted": (State.PROCESSING, SubmissionState.ACCEPTED, {}),
    "completed": (State.SUCCESS, SubmissionState.COMPLETED, {"outputs": OUTPUTS}),
    "stored": (State.STORING, SubmissionState.COMPLETED, {"sources": OUTPUTS}),
    "refused": (State.FAILED, SubmissionState.NOT_ACCEPTED, {"error": ERROR}),
    "retried": (State.PENDING, SubmissionState.NOT_ACCEPTED, {"error": ERROR}),
    "lost": (State.FAILED, SubmissionState.UNCERTAIN, {"error": ERROR}),
    "resubmitted": (State.PENDING, SubmissionState.UNCERTAIN, {"error": ERROR}),
    "same id": (State.PENDING, SubmissionState.UNCERTAIN, {"error": ERROR, "is_same_id": True}),
}
_ENDS: dict[str, tuple[State, TaskState, dict[str, Any]]] = {
    "succeeded": (State.SUCCESS, TaskState.SUCCESS, {"outputs": OUTPUTS}),
    "stored": (State.STORING, TaskState.SUCCESS, {"sources": OUTPUTS}),
    "failed": (State.FAILED, TaskState.FAILED, {"error": ERROR}),
    "given up": (State.FAILED, TaskState.FAILED, {"error": ERROR}),
}


def test_each_sum_of_money_is_what_its_rows_come_to(database_url: str) -> None:
    reached = run_machine(Money, database_url, examples=15, steps=25)
    assert {"resolved many", "counted"} <= reached
