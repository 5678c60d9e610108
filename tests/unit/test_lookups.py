"""Law 4: when a lookup that finds nothing is believed, and what follows from lookups."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.adapters.base import Adapter, Submitted
from libs.common.adapters.flux import Flux
from libs.common.database.records_dispatch import DispatchOutcome
from libs.common.database.states import State, SubmissionState
from libs.common.errors import ErrorCode, GenerationError
from libs.common.settings import Settings
from services.dispatcher.lookups import Lookups, Schedule
from services.dispatcher.outcomes import Job
from tests.support.catalogs import MODEL, PROVIDER
from tests.support.waiting import eventually
from tests.unit.test_outcomes import CLAIMED, LOST

TIMEOUT, MARGIN, APART, INTERVAL, LIMIT = 0.1, 0.2, 0.1, 0.03, 0.3
FOUND = Submitted("task", "https://api.example.com/check")
AWAY = GenerationError(ErrorCode.PROVIDER_UNAVAILABLE, "away")
WAIT = st.floats(0.01, 1_000)


class Vendor(Flux):
    """Answers lookups as its script says, and then goes on with the last answer."""

    can_find_task = True

    def __init__(self, *script: Submitted | Exception | None) -> None:
        self.script = list(script)
        self.asked_at: list[float] = []
        self.asked_for: set[str] = set()

    async def find_task(self, client_id: str) -> Submitted | None:
        self.asked_at.append(monotonic())
        self.asked_for.add(client_id)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Consistent(Vendor):
    """Documents that a task is found from the moment at which it was accepted."""

    lookups_are_consistent = True


class Idempotent(Vendor):
    """Bills our id once."""

    idempotent_submit = True


def _job(vendor: Adapter, generation_id: str = CLAIMED.id) -> Job:
    provider = PROVIDER.model_copy(
        update={"limits": PROVIDER.limits.model_copy(update={"submit_timeout_seconds": TIMEOUT})}
    )
    return Job(replace(CLAIMED, id=generation_id), MODEL, provider, vendor, attempt=1, submission_id="sub_1")


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "postgresql+psycopg2://localhost/none")
    made = Settings().model_copy(
        update={
            "lookup_margin_seconds": MARGIN,
            "lookup_apart_seconds": APART,
            "lookup_interval_seconds": INTERVAL,
            "lookup_limit_seconds": LIMIT,
            "lookups_per_account": 2,
        }
    )
    return Lookups(made, lambda job: job.adapter)


async def _resolved(lookups: Lookups, vendor: Vendor) -> tuple[DispatchOutcome | None, float]:
    """The outcome of a submission whose reply was just lost, and when its request left."""
    sent_at = monotonic()
    return await lookups.resolve(_job(vendor), LOST, sent_at=sent_at), sent_at


async def test_nothing_is_believed_of_two_lookups_far_apart_the_later_long_after_the_send(lookups: Lookups) -> None:
    vendor = Consistent(None)
    outcome, sent_at = await _resolved(lookups, vendor)
    assert outcome is not None
    assert (outcome.state, outcome.submission_state) == (State.PENDING, SubmissionState.NOT_ACCEPTED)
    assert vendor.asked_at[-1] - vendor.asked_at[0] >= APART
    assert vendor.asked_at[-1] - sent_at >= TIMEOUT + MARGIN
    assert vendor.asked_for == {"sub_1"}


async def test_nothing_is_never_believed_of_a_vendor_that_does_not_promise_it(lookups: Lookups) -> None:
    vendor = Vendor(None)
    outcome, sent_at = await _resolved(lookups, vendor)
    assert outcome is not None
    assert (outcome.state, outcome.submission_state) == (State.FAILED, SubmissionState.UNCERTAIN)
    assert outcome.error is not None
    assert outcome.error["code"] == ErrorCode.SUBMISSION_UNCERTAIN
    assert vendor.asked_at[-1] - sent_at >= TIMEOUT + MARGIN


async def test_task_that_appears_late_is_handed_over(lookups: Lookups) -> None:
    outcome, _ = await _resolved(lookups, Consistent(None, AWAY, None, FOUND))
    assert outcome is not None
    assert (outcome.state, outcome.submission_state) == (State.PROCESSING, SubmissionState.ACCEPTED)
    assert outcome.task is not None
    assert outcome.task.task_id == "task"


async def test_lookup_that_is_not_answered_shows_nothing(lookups: Lookups) -> None:
    vendor = Consistent(AWAY)
    outcome, sent_at = await _resolved(lookups, vendor)
    assert outcome is not None
    assert outcome.submission_state is SubmissionState.UNCERTAIN
    assert vendor.asked_at[-1] - sent_at >= TIMEOUT + MARGIN


async def test_unexpected_exception_of_an_adapter_ends_no_lookup(lookups: Lookups) -> None:
    failing, found = Consistent(KeyError("data")), Consistent(KeyError("data"), FOUND)
    sent_at = monotonic()
    outcome, other = await asyncio.gather(
        lookups.resolve(_job(failing), LOST, sent_at=sent_at),
        # Its lookups end when they find the task, and long after that otherwise.
        lookups.resolve(_job(found, "gen_2"), LOST, sent_at=sent_at + 60),
    )
    assert outcome is not None
    assert (outcome.state, outcome.submission_state) == (State.FAILED, SubmissionState.UNCERTAIN)
    assert outcome.error is not None
    assert outcome.error["code"] == ErrorCode.SUBMISSION_UNCERTAIN
    assert "KeyError" in outcome.error["details"]["lookup_error"]
    assert other is not None
    assert (other.state, other.submission_state) == (State.PROCESSING, SubmissionState.ACCEPTED)
    assert len(lookups) == 0


@pytest.mark.parametrize("failures", [0, 3])
async def test_submission_left_behind_long_ago_still_takes_two_answers_apart(lookups: Lookups, failures: int) -> None:
    vendor = Consistent(*[AWAY] * failures, None)
    outcome = await lookups.resolve(_job(vendor), LOST, sent_at=monotonic() - 1_000)
    assert outcome is not None
    assert outcome.submission_state is SubmissionState.NOT_ACCEPTED
    assert vendor.asked_at[-1] - vendor.asked_at[failures] >= APART


async def test_vendor_that_bills_an_id_once_is_sent_it_again_at_once(lookups: Lookups) -> None:
    vendor = Idempotent(None)
    outcome, _ = await _resolved(lookups, vendor)
    assert outcome is not None
    assert (outcome.state, outcome.submission_state) == (State.PENDING, SubmissionState.UNCERTAIN)
    assert len(vendor.asked_at) == 1
    assert vendor.asked_for == {"gen_1"}


async def test_stop_leaves_the_submission_to_the_next_holder_at_once(lookups: Lookups) -> None:
    vendor = Consistent(None)
    work = asyncio.create_task(lookups.resolve(_job(vendor), LOST, sent_at=monotonic() + 1_000))

    async def is_asked() -> bool:
        return bool(vendor.asked_at)

    await eventually(is_asked, within=5, what="the first lookup is made")
    assert (len(lookups), lookups.waiting("bfl"), lookups.is_full("bfl")) == (1, 1, False)
    lookups.stop()
    assert await asyncio.wait_for(work, 5) is None
    assert len(lookups) == 0


@settings(deadline=None)
@given(wait=WAIT, apart=WAIT, interval=st.floats(1, 1_000), delays=st.lists(st.floats(0, 50), min_size=1, max_size=5))
def test_schedule_comes_to_an_end_soon_and_never_before_its_time(
    wait: float, apart: float, interval: float, delays: list[float]
) -> None:
    schedule = Schedule(absent_from=wait, apart_seconds=apart, interval_seconds=interval, ends_at=1e9)
    now, first_at, number = 0.0, 0.0, 0
    while not schedule.is_absent(first_at, now):
        seconds = schedule.wait_seconds(first_at, now)
        assert 0 < seconds <= interval
        number += 1
        # A lookup leaves a little later than it should.
        now += max(seconds, 1e-6) + delays[number % len(delays)] / 1_000
    assert now >= wait
    assert now - first_at >= apart
    assert now <= max(wait, apart) + 0.1
