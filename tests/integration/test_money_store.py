"""Money of submissions in the database: what an upgrade finds, what retention forgets, what accounts get back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
import sqlalchemy as sa
from darkroom.gateway.v1 import gateway_pb2

from libs.common.catalog import CatalogHolder
from libs.common.database.engine import Database
from libs.common.database.records_dispatch import Attempt, NewTask
from libs.common.database.records_tasks import PollOutcome
from libs.common.database.states import State, SubmissionState, TaskState
from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.database.stores.billing import CHUNK, PARTLY_RESOLVED, BillingStore, Resolved, SubmissionFilter
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.partitions import PartitionStore
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.restoring import RestoreStore
from libs.common.database.stores.submissions import Decision, SubmissionStore
from libs.common.database.stores.usage import read_usage
from libs.common.errors import ErrorCode, GenerationError, InvalidRequest, OutcomeUnknown, StatementEnded
from libs.common.ids import new_id
from services.gateway.submissions import Submissions
from services.monitor.at_risk import AtRisk
from tests.conftest import StartStack
from tests.support.console import visitor
from tests.support.dispatchers import Dispatcher, attempt_outcome
from tests.support.rows import execute, insert, insert_key, new_generation, rows
from tests.support.waiting import eventually

T = TypeVar("T")
ERROR: dict[str, Any] = {"code": "TASK_TIMEOUT", "message": "no", "details": {}, "is_retryable": False}
PRICE_USD = 0.1
# A month that has only begun is old, seen from so many days later.
LATER = -100


async def _sums(database: Database) -> tuple[float, float, float]:
    """What is reserved, spent and at risk of the key's month, in US dollars."""
    key = await ApiKeyStore(database).get("key_1")
    assert key is not None
    return key.reserved_usd, key.spent_usd, key.at_risk_usd


async def _submitted(database: Database, state: State, submission_state: SubmissionState, **facts: Any) -> str:
    """A generation of the key with one submission that ended so; the submission's id."""
    fields = {"api_key_id": "key_1", "reserved_usd": PRICE_USD, "expected_cost_usd": PRICE_USD}
    await insert(database, [new_generation(id=new_id("gen"), **fields)])
    dispatcher = Dispatcher(database)
    (claimed,) = await dispatcher.claim(1)
    submission_id = new_id("sub")
    await dispatcher.record_attempts([Attempt(submission_id, claimed.id, claimed.lease_token)])
    outcome = attempt_outcome(claimed, submission_id, state, submission_state, **facts)
    assert await dispatcher.end([outcome]) == [state]
    return submission_id


async def _lost(database: Database) -> str:
    return await _submitted(database, State.FAILED, SubmissionState.UNCERTAIN, error=ERROR)


async def _given_up(database: Database, task_id: str) -> str:
    task = NewTask(task_id, "flux", None, "fixed", 100, 600)
    submission_id = await _submitted(database, State.PROCESSING, SubmissionState.ACCEPTED, task=task)
    poller = PollStore(database, owner="one", lease_seconds=30)
    claimed = await poller.take("bfl", task_id)
    assert claimed is not None
    await poller.end([PollOutcome(*claimed.lease, TaskState.FAILED, generation_state=State.FAILED, error=ERROR)])
    sql = "UPDATE submissions SET at_risk_usd = expected_cost_usd WHERE id = :id AND billing IS NULL"
    await execute(database, sql, id=submission_id)
    return submission_id


async def test_money_at_risk_is_counted_as_spent_after_the_term_and_an_operator_reverses_it(database: Database) -> None:
    await insert_key(database, "key_1")
    submission_id = await _lost(database)
    counting = AtRisk(BillingStore(database), days=7)
    assert not await counting.count()
    assert await _sums(database) == (0, 0, PRICE_USD)
    # Sums stay in the month in which the money came: the rows alone say what becomes of it here.
    await execute(database, "UPDATE submissions SET started_at = started_at - interval '8 days'")
    await counting.count()
    (row,) = await rows(database, "SELECT billing, spent_usd, at_risk_usd FROM submissions")
    assert row == {"billing": "COUNTED", "spent_usd": Decimal("0.1"), "at_risk_usd": 0}
    await SubmissionStore(database).resolve(submission_id, Decision(billing="NOT_BILLED"), new_id="gen_x")
    (row,) = await rows(database, "SELECT billing, spent_usd, at_risk_usd FROM submissions")
    assert row == {"billing": "NOT_BILLED", "spent_usd": 0, "at_risk_usd": 0}


async def test_what_is_forgotten_is_counted_as_spent_first(database: Database) -> None:
    await insert_key(database, "key_1")
    await _lost(database)
    store = PartitionStore(database)
    first = await store.forget_generations(days=LATER, limit=10)
    assert (first.counted, first.partitions) == (1, ())
    while (await store.forget_generations(days=LATER, limit=10)).rows:
        pass
    assert await rows(database, "SELECT id FROM submissions") == []
    assert await _sums(database) == (0, PRICE_USD, 0)


async def test_an_account_gets_back_what_was_not_billed_today_and_is_charged_again_where_that_is_reversed(
    database: Database,
) -> None:
    await insert_key(database, "key_1")
    submission_id, store = await _lost(database), SubmissionStore(database)

    async def charged() -> float:
        (row,) = await rows(database, "SELECT spend_usd FROM provider_accounts WHERE provider_id = 'bfl'")
        return round(float(row["spend_usd"]), 6)

    assert await charged() == PRICE_USD
    not_billed, billed = Decision(billing="NOT_BILLED"), Decision(billing="BILLED")
    for decision, expected in ((not_billed, 0), (not_billed, 0), (billed, PRICE_USD), (billed, PRICE_USD)):
        await store.resolve(submission_id, decision, new_id="gen_x")
        assert await charged() == expected
    await execute(database, "UPDATE submissions SET started_at = started_at - interval '1 day'")
    await store.resolve(submission_id, not_billed, new_id="gen_x")
    assert await charged() == PRICE_USD


@pytest.mark.parametrize(("is_answered", "charged_usd"), [(True, 0), (False, PRICE_USD)])
async def test_an_account_gets_back_what_a_task_cost_that_its_provider_ended_without_a_result(
    database: Database, is_answered: bool, charged_usd: float
) -> None:
    task = NewTask("task_1", "flux", None, "fixed", 100, 600)
    await _submitted(database, State.PROCESSING, SubmissionState.ACCEPTED, task=task)
    poller = PollStore(database, owner="one", lease_seconds=30)
    claimed = await poller.take("bfl", "task_1")
    assert claimed is not None
    outcome = PollOutcome(
        *claimed.lease, TaskState.FAILED, generation_state=State.FAILED, error=ERROR, is_answered=is_answered
    )
    assert await poller.end([outcome]) == [State.FAILED]
    (row,) = await rows(database, "SELECT spend_usd FROM provider_accounts WHERE provider_id = 'bfl'")
    assert round(float(row["spend_usd"]), 6) == charged_usd


async def test_what_another_operator_resolves_meanwhile_is_not_counted_as_resolved(database: Database) -> None:
    await insert_key(database, "key_1")
    submission_id = await _lost(database)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.engine.connect() as other:
        other.execute(
            sa.text(
                "UPDATE submissions SET billing = 'BILLED', billing_at = now(), spent_usd = at_risk_usd,"
                " at_risk_usd = 0 WHERE id = :id"
            ),
            {"id": submission_id},
        )
        resolving = BillingStore(database).resolve_named([submission_id], "NOT_BILLED", dismiss=False, note="")
        task = asyncio.create_task(resolving)
        await eventually(lambda: rows(database, waiting), within=5, what="the second operator waits for the first")
        await asyncio.to_thread(other.commit)
    assert await task == Resolved()
    assert await _sums(database) == (0, PRICE_USD, 0)


async def test_what_was_at_risk_last_month_is_not_at_risk_this_month(database: Database) -> None:
    await insert_key(database, "key_1")
    line = """INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd, at_risk_usd)
        SELECT 'key_1', date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => :ago), 0, 1, 2, 4"""
    for ago in (0, 1):
        await execute(database, line, ago=ago)
    (usage,) = await database.transaction("read", lambda c: read_usage(c, ["key_1"]))
    assert (usage.reserved_usd, usage.spent_usd, usage.at_risk_usd) == (1, 2, 4)


async def test_a_task_that_was_given_up_is_followed_again_for_its_continuation(database: Database) -> None:
    await insert_key(database, "key_1")
    submission_id = await _given_up(database, "task_1")
    assert await _sums(database) == (0, 0, PRICE_USD)
    task = NewTask("task_1", "flux", None, "fixed", 100, 600)
    decision, store = Decision("ATTACHED", task=task), SubmissionStore(database)
    continued = await store.resolve(submission_id, decision, new_id=new_id("gen"))
    assert await store.resolve(submission_id, decision, new_id=new_id("gen")) == continued
    (row,) = await rows(database, "SELECT generation_id, ended_at, lease_owner FROM poll_tasks")
    assert row == {"generation_id": continued, "ended_at": None, "lease_owner": None}
    assert await _sums(database) == (PRICE_USD, 0, 0)
    other = await _lost(database)
    with pytest.raises(InvalidRequest, match="no other generation polls"):
        await store.resolve(other, decision, new_id=new_id("gen"))


async def test_what_a_restored_database_is_unsure_of_is_at_risk(database: Database) -> None:
    await insert_key(database, "key_1")
    fields = {"api_key_id": "key_1", "reserved_usd": PRICE_USD, "expected_cost_usd": PRICE_USD}
    await insert(database, [new_generation(id=new_id("gen"), **fields) for _ in range(2)])
    assert await RestoreStore(database).doubt(10, idempotent=[]) == 2
    assert await _sums(database) == (0, 0, PRICE_USD * 2)


async def test_a_lost_submission_that_was_to_be_repeated_is_at_risk_once_its_generation_has_ended(
    database: Database,
) -> None:
    await insert_key(database, "key_1")
    repeated = {"error": ERROR, "is_same_id": True}
    await _submitted(database, State.PENDING, SubmissionState.UNCERTAIN, **repeated)
    assert await _sums(database) == (PRICE_USD, 0, 0)
    (generation,) = await rows(database, "SELECT id FROM generation_requests")
    assert await CancelStore(database).request(generation["id"]) is State.CANCELLED
    assert await _sums(database) == (0, 0, PRICE_USD)


async def test_a_restore_counts_each_attempt_once(database: Database) -> None:
    await insert(database, [new_generation(id=new_id("gen")) for _ in range(2)])
    dispatcher = Dispatcher(database)
    (claimed,) = await dispatcher.claim(1)
    await dispatcher.record_attempts([Attempt(new_id("sub"), claimed.id, claimed.lease_token)])
    assert await RestoreStore(database).doubt(10, idempotent=[]) == 2
    assert await rows(database, "SELECT attempts FROM generation_requests") == [{"attempts": 1}] * 2
    found = await rows(database, "SELECT attempt, state FROM submissions")
    assert found == [{"attempt": 1, "state": "UNCERTAIN"}] * 2


async def test_a_restore_leaves_what_is_cancelled_meanwhile(database: Database) -> None:
    await insert(database, [new_generation(id=new_id("gen"))])
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.engine.connect() as cancel:
        cancel.execute(sa.text("UPDATE generation_requests SET state = 'CANCELLED', ended_at = now()"))
        doubt = asyncio.create_task(RestoreStore(database).doubt(10, idempotent=[]))
        await eventually(lambda: rows(database, waiting), within=5, what="the restore waits for the cancel")
        await asyncio.to_thread(cancel.commit)
    assert await doubt == 0
    assert await rows(database, "SELECT state FROM generation_requests") == [{"state": "CANCELLED"}]


async def test_a_result_that_was_billed_and_could_not_be_stored_is_spent(database: Database) -> None:
    await insert_key(database, "key_1")
    await _submitted(database, State.FAILED, SubmissionState.COMPLETED, error=ERROR, cost_usd=0.2)
    assert await _sums(database) == (0, 0.2, 0)


async def _at_risk(database: Database, number: int) -> list[str]:
    """So many submissions with money at risk, of one generation; their ids."""
    await insert(database, [new_generation(id="gen_many", expected_cost_usd=PRICE_USD)])
    sql = """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at, started_at,
            expected_cost_usd, at_risk_usd)
        SELECT 'sub_' || lpad(n::text, 6, '0'), 'gen_many', n, 'bfl', 'UNCERTAIN', now(), now(), 0.1, 0.1
        FROM generate_series(1, :number) n RETURNING id"""
    return sorted(row["id"] for row in await rows(database, sql, number=number))


@pytest.mark.parametrize("by_ids", [True, False])
async def test_a_bulk_resolution_that_fails_halfway_is_of_unknown_outcome_and_a_repeat_resolves_the_rest(
    database: Database, database_url: str, by_ids: bool
) -> None:
    ids = await _at_risk(database, CHUNK + 1)
    impatient = Database(database_url, size=1, statement_timeout_seconds=1, application_name="impatient")
    store = BillingStore(impatient)

    async def resolve() -> Resolved:
        if by_ids:
            return await store.resolve_named(ids, "BILLED", dismiss=True, note="invoice")
        return await store.resolve_all(SubmissionFilter(), "BILLED", dismiss=True, note="invoice")

    async def left() -> list[str]:
        found = await rows(database, "SELECT id FROM submissions WHERE at_risk_usd > 0 ORDER BY id")
        return [row["id"] for row in found]

    with sa.create_engine(database_url, poolclass=sa.NullPool).connect() as other:
        other.execute(sa.text("SELECT FROM submissions WHERE id = :id FOR UPDATE"), {"id": ids[-1]})
        with pytest.raises(OutcomeUnknown, match="500 submissions were resolved") as caught:
            await resolve()
        other.rollback()
    assert (caught.value.details[PARTLY_RESOLVED], caught.value.is_retryable) == (CHUNK, False)
    assert caught.value.details["sqlstate"] == "57014"
    assert await left() == ids[-1:]
    assert (await resolve()).submissions == 1
    assert await left() == []
    await impatient.close()


async def test_a_bulk_resolution_whose_first_transaction_fails_has_resolved_nothing(
    database: Database, database_url: str
) -> None:
    ids = await _at_risk(database, 2)
    impatient = Database(database_url, size=1, statement_timeout_seconds=1, application_name="impatient")
    with sa.create_engine(database_url, poolclass=sa.NullPool).connect() as other:
        other.execute(sa.text("SELECT FROM submissions WHERE id = :id FOR UPDATE"), {"id": ids[0]})
        with pytest.raises(StatementEnded):
            await BillingStore(impatient).resolve_named(ids, "BILLED", dismiss=False, note="")
        other.rollback()
    await impatient.close()


class _Unsteady:
    """A database of which one transaction fails, by its name: after its commit, or before it begins."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.fails: dict[str, GenerationError] = {}

    async def transaction(self, name: str, work: Callable[[sa.Connection], T]) -> T:
        error = self.fails.get(name)
        if isinstance(error, OutcomeUnknown):
            await self._database.transaction(name, work)
        if error is not None:
            raise error
        answer = await self._database.transaction(name, work)
        if name == "resolve_submission":
            self.fails["get_submission"] = GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "away")
        return answer


@pytest.mark.parametrize("is_commit_lost", [True, False])
async def test_the_dispatcher_is_notified_of_a_continuation_only_once_it_is_known_to_be_committed(
    database: Database, is_commit_lost: bool
) -> None:
    await insert_key(database, "key_1")
    submission_id = await _lost(database)
    unsteady, woken = _Unsteady(database), list[str]()
    if is_commit_lost:
        unsteady.fails["resolve_submission"] = OutcomeUnknown("the reply was lost")
    found = cast("Database", unsteady)
    submissions = Submissions(
        cast("CatalogHolder", SimpleNamespace(current=None)),
        SubmissionStore(found),
        BillingStore(found),
        woken.extend,
    )
    request = gateway_pb2.ResolveSubmissionRequest(
        submission_id=submission_id,
        resolution=gateway_pb2.SUBMISSION_RESOLUTION_RESUBMITTED,
        billing=gateway_pb2.SUBMISSION_BILLING_NOT_BILLED,
    )
    with pytest.raises(OutcomeUnknown) as caught:
        await submissions.resolve(request)
    sql = "SELECT id FROM generation_requests WHERE continues_id IS NOT NULL"
    continued = [row["id"] for row in await rows(database, sql)]
    assert len(continued) == 1
    assert woken == ([] if is_commit_lost else continued)
    if not is_commit_lost:
        assert caught.value.details == {"submission_id": submission_id, "generation_id": continued[0]}


async def test_the_console_reports_that_only_some_submissions_were_resolved(
    start_stack: StartStack, database: Database
) -> None:
    ids = await _at_risk(database, CHUNK + 1)
    settings = {"DARKROOM_DATABASE_STATEMENT_TIMEOUT_SECONDS": "1"}
    running = await start_stack(services=("gateway",), settings=settings)
    async with visitor(running.gateway_url()) as operator:
        token = await operator.sign_in(running.admin_key)
        with sa.create_engine(database.engine.url, poolclass=sa.NullPool).connect() as other:
            other.execute(sa.text("SELECT FROM submissions WHERE id = :id FOR UPDATE"), {"id": ids[-1]})
            done = await operator.post("/admin/submissions/resolve", token, which="all", billing="BILLED")
            other.rollback()
        assert (done.status, done.location) == (303, "/admin/submissions?said=resolved_some")
        shown = await operator.get(done.location)
        assert "Only some of the submissions are resolved." in shown.text
        chinese = await operator.get(done.location, **{"accept-language": "zh"})
        assert "仅处理了部分提交" in chinese.text
        assert "OUTCOME_UNKNOWN" in (await operator.get("/admin/audit")).text
        rest = await operator.post("/admin/submissions/resolve", token, which="all", billing="BILLED")
        assert (rest.status, rest.location) == (303, "/admin/submissions?said=resolved_many")


async def test_the_console_names_the_price_of_a_second_payment_that_is_asked_for(
    start_stack: StartStack, database: Database
) -> None:
    await insert(database, [new_generation(id="gen_1", expected_cost_usd=0.1, reserved_usd=1.234567)])
    await execute(database, "UPDATE generation_requests SET state = 'FAILED', ended_at = now(), "
                  """error = '{"code": "SUBMISSION_UNCERTAIN", "message": "lost", "details": {}, "is_retryable": false}'
                  """)  # fmt: skip
    await execute(database, """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at,
        started_at, expected_cost_usd, at_risk_usd)
        VALUES ('sub_1', 'gen_1', 1, 'bfl', 'UNCERTAIN', now(), now(), 0.1, 0.1)""")  # fmt: skip
    running = await start_stack(services=("gateway",))
    async with visitor(running.gateway_url()) as operator:
        token = await operator.sign_in(running.admin_key)
        assert "It costs at most $1.234567 by the catalog." in (await operator.get("/admin/generations/gen_1")).text
        refused = await operator.post("/admin/submissions/sub_1/resolve", token, resolution="RESUBMITTED")
        assert "must be at least $1.234567" in refused.text
