"""Law 5: a result is written again until the database accepts it, and reduced rather than dropped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import Attempt, DispatchOutcome, NewTask
from libs.common.database.states import State, SubmissionState
from libs.common.errors import StatementEnded
from services.dispatcher.recording import Recording
from tests.support.dispatchers import Dispatcher
from tests.support.rows import execute, insert, new_generation, rows

STORED: list[dict[str, Any]] = [{"type": "image", "object_key": "generations/1.png", "content_type": "image/png"}]
REPLY = {"http_status": 200, "content_type": "application/json", "size_bytes": 2, "body": "{}"}
REFUSES_REPLIES = "ALTER TABLE submissions ADD CONSTRAINT ck_refuses_replies CHECK (reply IS NULL)"
REFUSES_OUTPUTS = "ALTER TABLE generation_requests ADD CONSTRAINT ck_refuses_outputs CHECK (outputs IS NULL)"
# More often than a statement is repeated by default. A sequence counts what is rolled back as well.
REFUSALS = 45
REFUSES_FOR_LONG = f"""
CREATE SEQUENCE refusals;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('refusals') <= {REFUSALS} THEN RAISE EXCEPTION 'busy' USING ERRCODE = 'lock_not_available'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON submissions FOR EACH ROW EXECUTE FUNCTION refuse()"""


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)


@pytest.fixture
async def dispatcher(database: Database) -> Dispatcher:
    return Dispatcher(database)


@pytest.fixture
async def recording(dispatcher: Dispatcher) -> AsyncIterator[Recording]:
    made = Recording(dispatcher.end)
    yield made
    await made.close()


async def _completed(database: Database, dispatcher: Dispatcher) -> DispatchOutcome:
    """The outcome of a submit whose images are in object storage, with the reply that is kept beside them."""
    await insert(database, [new_generation(expected_cost_usd=0.04)])
    (claimed,) = await dispatcher.claim(1)
    assert await dispatcher.record_attempts([Attempt("sub_1", claimed.id, claimed.lease_token)]) == [True]
    return DispatchOutcome(
        claimed.id,
        claimed.lease_token,
        State.SUCCESS,
        provider_id="bfl",
        submission_id="sub_1",
        submission_state=SubmissionState.COMPLETED,
        outputs=STORED,
        cost_usd=0.04,
        reply=REPLY,
    )


async def _row(database: Database) -> dict[str, Any]:
    (row,) = await rows(
        database,
        """SELECT g.state, g.outputs, s.state AS submission, s.reply FROM generation_requests g
        JOIN submissions s ON s.generation_id = g.id""",
    )
    return row


async def test_images_are_kept_where_the_database_refuses_the_reply_beside_them(
    database: Database, dispatcher: Dispatcher, recording: Recording
) -> None:
    outcome = await _completed(database, dispatcher)
    await execute(database, REFUSES_REPLIES)
    written, state = await recording.record(outcome)
    assert (written, state) == (replace(outcome, reply=None), State.SUCCESS)
    assert await _row(database) == {"state": "SUCCESS", "outputs": STORED, "submission": "COMPLETED", "reply": None}


async def test_images_are_written_however_often_the_database_ends_the_statement(
    database: Database, dispatcher: Dispatcher, recording: Recording
) -> None:
    outcome = await _completed(database, dispatcher)
    await execute(database, REFUSES_FOR_LONG)
    written, state = await asyncio.wait_for(recording.record(outcome), 30)
    assert (written.outputs, state) == (STORED, State.SUCCESS)
    assert (await _row(database))["outputs"] == STORED
    assert not recording.is_waiting


async def test_outcome_of_a_lost_lease_is_not_repeated_without_end(
    database: Database, dispatcher: Dispatcher, recording: Recording
) -> None:
    outcome = await _completed(database, dispatcher)
    await execute(database, REFUSES_FOR_LONG)
    _, state = await asyncio.wait_for(recording.record(replace(outcome, lease_token=outcome.lease_token + 1)), 30)
    assert state is None


async def test_outcome_without_a_result_is_left_to_the_next_holder(
    database: Database, dispatcher: Dispatcher, recording: Recording
) -> None:
    outcome = await _completed(database, dispatcher)
    await execute(database, REFUSES_FOR_LONG)
    error = {"code": "SUBMISSION_UNCERTAIN", "message": "no", "details": {}, "is_retryable": False}
    uncertain = replace(
        outcome,
        state=State.FAILED,
        submission_state=SubmissionState.UNCERTAIN,
        outputs=None,
        cost_usd=None,
        error=error,
    )
    with pytest.raises(StatementEnded):
        await asyncio.wait_for(recording.record(uncertain), 30)


@pytest.mark.parametrize(
    "facts", [{"outputs": STORED}, {"outputs": None, "state": State.PROCESSING, "submission_state": "ACCEPTED"}]
)
async def test_result_that_no_row_accepts_leaves_the_submission_uncertain(
    database: Database, dispatcher: Dispatcher, recording: Recording, facts: dict[str, Any]
) -> None:
    outcome = replace(await _completed(database, dispatcher), **facts)
    if outcome.outputs:
        await execute(database, REFUSES_OUTPUTS)
    else:
        # The task that another generation has already.
        task = NewTask("task_1", "flux", None, "fixed", 100, 60)
        await insert(database, [other := new_generation()])
        await execute(
            database,
            """INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, strategy, poll_interval_ms,
                next_poll_at, deadline_at) VALUES ('bfl', 'task_1', :id, 'flux', 'fixed', 100, now(), now())""",
            id=other.id,
        )
        outcome = replace(outcome, task=task, submission_state=SubmissionState.ACCEPTED)
    written, state = await recording.record(outcome)
    assert (state, written.outputs) == (State.FAILED, None)
    (row,) = await rows(database, "SELECT state FROM submissions")
    assert row["state"] == "UNCERTAIN"
