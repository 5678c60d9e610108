"""A provider's reply that arrives once the claim has ended: whatever it names or brings is held by a generation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import Attempt, ClaimedGeneration, DispatchOutcome, NewTask
from libs.common.database.records_tasks import PollOutcome
from libs.common.database.states import State, SubmissionState, TaskState
from libs.common.database.stores.late_replies import LateReplyStore
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.submissions import Decision, SubmissionStore
from tests.support.dispatchers import Dispatcher
from tests.support.rows import execute, insert, new_generation, rows

OUTPUTS: list[dict[str, Any]] = [{"type": "image", "url": "https://example.com/1.png"}]
ERROR: dict[str, Any] = {"code": "SUBMISSION_UNCERTAIN", "message": "?", "details": {}, "is_retryable": False}
TASK = NewTask("task_1", "flux", "https://example.com/check", "fixed", 100, 60)
REPLIES: dict[str, dict[str, Any]] = {
    "a task": {"state": State.PROCESSING, "task": TASK},
    "URLs to be stored": {"state": State.STORING, "sources": OUTPUTS, "cost_usd": 0.5},
    "bytes": {"state": State.STORING, "sources": [{"type": "image", "spooled": 0}], "spool": (b"x",), "cost_usd": 0.5},
    "stored outputs": {"state": State.SUCCESS, "outputs": OUTPUTS, "cost_usd": 0.5},
}


async def _sent(database: Database) -> tuple[ClaimedGeneration, Dispatcher]:
    """A generation whose submit has left a process, and the process that claims it after that one's lease."""
    await insert(database, [new_generation(expected_cost_usd=0.5)])
    first, second = Dispatcher(database, owner="first"), Dispatcher(database, owner="second")
    (claimed,) = await first.claim()
    assert await first.record_attempts([Attempt("sub_1", claimed.id, claimed.lease_token)]) == [True]
    await execute(database, "UPDATE generation_requests SET lease_until = now() - interval '1 s'")
    (again,) = await second.claims.rescue(10, held=[])
    assert again.open_submission_id == "sub_1"
    return claimed, second


def _reply(claimed: ClaimedGeneration, kind: str) -> DispatchOutcome:
    return DispatchOutcome(
        claimed.id, claimed.lease_token, provider_id="bfl", submission_id="sub_1",
        submission_state=SubmissionState.ACCEPTED, **REPLIES[kind],
    )  # fmt: skip


async def _end_as_uncertain(database: Database, second: Dispatcher, generation_id: str) -> None:
    (row,) = await rows(database, "SELECT lease_token FROM generation_requests")
    outcome = DispatchOutcome(
        generation_id, row["lease_token"], State.FAILED, provider_id="bfl", submission_id="sub_1",
        submission_state=SubmissionState.UNCERTAIN, error=ERROR,
    )  # fmt: skip
    assert await second.end([outcome]) == [State.FAILED]


async def _money(database: Database) -> dict[str, Any]:
    (found,) = await rows(
        database,
        """SELECT (SELECT COALESCE(sum(at_risk_usd + spent_usd), 0)::float FROM submissions) AS submissions,
            sum(cost_usd)::float AS cost,
            sum(reserved_usd) FILTER (WHERE ended_at IS NULL)::float AS reserved FROM generation_requests""",
    )
    return found


@pytest.mark.parametrize("kind", REPLIES)
async def test_it_ends_the_claim_of_the_process_that_looks_for_it(database: Database, kind: str) -> None:
    claimed, second = await _sent(database)
    kept = await LateReplyStore(database).keep(_reply(claimed, kind))
    assert kept is not None
    assert (kept.generation_id, kept.state) == (claimed.id, REPLIES[kind]["state"])
    (row,) = await rows(database, "SELECT state, lease_owner FROM generation_requests")
    assert row == {"state": REPLIES[kind]["state"], "lease_owner": None}
    (submission,) = await rows(database, "SELECT state, at_risk_usd FROM submissions")
    assert (submission["state"], submission["at_risk_usd"]) == ("ACCEPTED", 0)
    # The other process finds its claim gone.
    uncertain = replace(_reply(claimed, kind), state=State.FAILED, task=None, sources=None, outputs=None, spool=(),
                        error=ERROR, submission_state=SubmissionState.UNCERTAIN)  # fmt: skip
    assert await second.end([uncertain]) == [None]


@pytest.mark.parametrize("kind", REPLIES)
async def test_a_generation_that_ended_as_uncertain_is_continued(database: Database, kind: str) -> None:
    claimed, second = await _sent(database)
    await _end_as_uncertain(database, second, claimed.id)
    assert (await _money(database))["submissions"] == 0.5
    store, reply = LateReplyStore(database), _reply(claimed, kind)
    kept = await store.keep(reply)
    assert kept is not None
    old, new = await rows(
        database,
        """SELECT id, state, continues_id, is_late, outputs, sources, CAST(reserved_usd AS float) AS reserved_usd
        FROM generation_requests ORDER BY id""",
    )
    assert (old["state"], old["id"]) == ("FAILED", claimed.id)
    assert (new["id"], new["state"]) == (kept.generation_id, REPLIES[kind]["state"])
    assert (new["continues_id"], new["is_late"], new["reserved_usd"]) == (claimed.id, True, 0.5)
    assert new["outputs"] == REPLIES[kind].get("outputs")
    assert new["sources"] == REPLIES[kind].get("sources")
    tasks = await rows(database, "SELECT task_id, generation_id FROM poll_tasks")
    assert tasks == ([{"task_id": "task_1", "generation_id": new["id"]}] if kind == "a task" else [])
    spooled = await rows(database, "SELECT generation_id, content = 'x' AS is_whole FROM output_spool")
    assert spooled == ([{"generation_id": new["id"], "is_whole": True}] if kind == "bytes" else [])
    (submission,) = await rows(database, "SELECT resolution, billing, at_risk_usd FROM submissions")
    assert submission == {"resolution": "ATTACHED", "billing": "CONTINUED", "at_risk_usd": 0}
    assert await store.keep(reply) is None, "the second time it is known"


async def test_the_cancel_of_a_request_is_passed_on_to_its_task(database: Database) -> None:
    claimed, second = await _sent(database)
    await execute(database, "UPDATE generation_requests SET cancel_requested_at = now()")
    await _end_as_uncertain(database, second, claimed.id)
    kept = await LateReplyStore(database).keep(_reply(claimed, "a task"))
    assert kept is not None
    assert kept.state is State.PROCESSING
    (task,) = await PollStore(database, owner="poller", lease_seconds=30).claim({"bfl": 1})
    assert (task.generation_id, task.is_cancel_requested) == (kept.generation_id, True)


@pytest.mark.parametrize(("kind", "column"), [
    *((kind, "deleted_at") for kind in REPLIES),
    *((kind, "cancel_requested_at") for kind in REPLIES if kind != "a task"),
])  # fmt: skip
async def test_of_a_request_that_nobody_wants_only_the_money_is_recorded(
    database: Database, kind: str, column: str
) -> None:
    claimed, second = await _sent(database)
    await _end_as_uncertain(database, second, claimed.id)
    await execute(database, f"UPDATE generation_requests SET {column} = now()")
    assert await LateReplyStore(database).keep(_reply(claimed, kind)) is None
    (submission,) = await rows(
        database, "SELECT billing, at_risk_usd::float, spent_usd::float, provider_task_id FROM submissions"
    )
    if kind == "a task":
        assert submission == {"billing": None, "at_risk_usd": 0.5, "spent_usd": 0, "provider_task_id": "task_1"}
    else:
        assert submission == {"billing": "BILLED", "at_risk_usd": 0, "spent_usd": 0.5, "provider_task_id": None}
    assert len(await rows(database, "SELECT id FROM generation_requests")) == 1


@pytest.mark.parametrize("kind", ["a task", "stored outputs"])
async def test_the_amount_that_an_operator_recorded_stays_the_cost(database: Database, kind: str) -> None:
    claimed, second = await _sent(database)
    await _end_as_uncertain(database, second, claimed.id)
    decision = Decision("DISMISSED", billing="BILLED", cost_usd=0.7)
    await SubmissionStore(database).resolve("sub_1", decision, new_id="gen_none")
    kept = await LateReplyStore(database).keep(_reply(claimed, kind))
    assert kept is not None
    if kind == "a task":
        polls = PollStore(database, owner="poller", lease_seconds=30)
        (task,) = await polls.claim({"bfl": 1})
        end = PollOutcome(
            "bfl", task.task_id, kept.generation_id, task.lease_token, TaskState.SUCCESS, sources=OUTPUTS,
            cost_usd=0.5, generation_state=State.STORING,
        )  # fmt: skip
        assert await polls.end([end]) == [State.STORING]
    money = await _money(database)
    assert (money["submissions"], money["cost"]) == (0.0, 0.7)


@pytest.mark.parametrize("kind", REPLIES)
async def test_a_late_reply_takes_the_place_of_the_wrong_task_that_an_operator_attached(
    database: Database, kind: str
) -> None:
    claimed, second = await _sent(database)
    await _end_as_uncertain(database, second, claimed.id)
    attached = Decision("ATTACHED", task=replace(TASK, task_id="mistyped"))
    assert await SubmissionStore(database).resolve("sub_1", attached, new_id="gen_attached") == "gen_attached"
    kept = await LateReplyStore(database).keep(_reply(claimed, kind))
    assert kept is not None
    assert (kept.generation_id, kept.state) == ("gen_attached", REPLIES[kind]["state"])
    (generation,) = await rows(database, "SELECT * FROM generation_requests WHERE id = 'gen_attached'")
    assert (generation["state"], generation["outputs"]) == (REPLIES[kind]["state"], REPLIES[kind].get("outputs"))
    polls = PollStore(database, owner="poller", lease_seconds=30)
    claimed_tasks = [task.task_id for task in await polls.claim({"bfl": 1})]
    assert claimed_tasks == (["task_1"] if kind == "a task" else [])
    money = await _money(database)
    assert (money["submissions"], money["cost"]) == (0.0, None if kind == "a task" else 0.5)
    assert await LateReplyStore(database).keep(_reply(claimed, kind)) is None, "it is known"


async def test_a_late_reply_changes_nothing_of_the_right_task_that_an_operator_attached(database: Database) -> None:
    claimed, second = await _sent(database)
    await _end_as_uncertain(database, second, claimed.id)
    await SubmissionStore(database).resolve("sub_1", Decision("ATTACHED", task=TASK), new_id="gen_attached")
    assert await LateReplyStore(database).keep(_reply(claimed, "a task")) is None


async def test_a_task_that_somebody_has_found_is_followed_once(database: Database) -> None:
    claimed, second = await _sent(database)
    (row,) = await rows(database, "SELECT lease_token FROM generation_requests")
    found = replace(_reply(claimed, "a task"), lease_token=row["lease_token"])
    assert await second.end([found]) == [State.PROCESSING]
    assert await LateReplyStore(database).keep(_reply(claimed, "a task")) is None
    assert len(await rows(database, "SELECT id FROM generation_requests")) == 1
    assert len(await rows(database, "SELECT task_id FROM poll_tasks")) == 1


async def test_what_holds_nothing_is_not_kept(database: Database) -> None:
    claimed, second = await _sent(database)
    await _end_as_uncertain(database, second, claimed.id)
    nothing = DispatchOutcome(
        claimed.id, claimed.lease_token, State.FAILED, submission_id="sub_1",
        submission_state=SubmissionState.UNCERTAIN, error=ERROR,
    )  # fmt: skip
    assert await LateReplyStore(database).keep(nothing) is None
    assert len(await rows(database, "SELECT id FROM generation_requests")) == 1


@pytest.mark.parametrize("has_ended", [True, False])
async def test_a_late_refusal_says_that_nothing_was_billed(database: Database, *, has_ended: bool) -> None:
    claimed, second = await _sent(database)
    if has_ended:
        await _end_as_uncertain(database, second, claimed.id)
    refusal = DispatchOutcome(
        claimed.id, claimed.lease_token, State.FAILED, provider_id="bfl", submission_id="sub_1",
        submission_state=SubmissionState.NOT_ACCEPTED, error={**ERROR, "code": "INVALID_REQUEST"}, http_status=400,
    )  # fmt: skip
    await LateReplyStore(database).keep(refusal)
    (submission,) = await rows(
        database,
        "SELECT state, billing, resolution, at_risk_usd::float, spent_usd::float, http_status FROM submissions",
    )
    billing, resolution = ("NOT_BILLED", "DISMISSED") if has_ended else (None, None)
    assert submission == {
        "state": "UNCERTAIN" if has_ended else "NOT_ACCEPTED",
        "billing": billing,
        "resolution": resolution,
        "at_risk_usd": 0,
        "spent_usd": 0,
        "http_status": 400,
    }
    (generation,) = await rows(database, "SELECT state, error->>'code' AS code FROM generation_requests")
    assert generation == {"state": "FAILED", "code": "SUBMISSION_UNCERTAIN" if has_ended else "INVALID_REQUEST"}


async def test_a_late_reply_that_cannot_be_read_is_kept_with_its_submission(database: Database) -> None:
    claimed, second = await _sent(database)
    await _end_as_uncertain(database, second, claimed.id)
    unread = DispatchOutcome(
        claimed.id, claimed.lease_token, State.FAILED, provider_id="bfl", submission_id="sub_1",
        submission_state=SubmissionState.UNCERTAIN, error=ERROR, http_status=200, reply={"body": "<html>"},
    )  # fmt: skip
    assert await LateReplyStore(database).keep(unread) is None
    (submission,) = await rows(database, "SELECT reply, http_status, at_risk_usd::float, billing FROM submissions")
    assert submission == {"reply": {"body": "<html>"}, "http_status": 200, "at_risk_usd": 0.5, "billing": None}
