"""Which generation answers a client call without an idempotency key, as the database keeps it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_edge import Accepted, Admission, ClientCall, KeyUsage, NewRequest
from libs.common.database.states import State
from libs.common.database.stores.generations import GenerationStore
from libs.common.database.stores.intake import IntakeStore, Undecided
from libs.common.errors import ErrorCode, GenerationError
from tests.support.client_calls import is_waiting, made_generations
from tests.support.rows import admit_every, execute, insert_key, new_generation, rows
from tests.support.waiting import eventually

WINDOW_SECONDS = 180.0


def _request(
    retry_count: int | None = 0, *, waited_seconds: float = 0.0, digest: str = "d", **changes: Any
) -> NewRequest:
    received = monotonic() - waited_seconds
    return NewRequest(new_generation(**changes), client_call=ClientCall(digest, retry_count, received, WINDOW_SECONDS))


def _ids(answers: list[Accepted | GenerationError]) -> list[str]:
    found = [answer.generation_id for answer in answers if isinstance(answer, Accepted)]
    assert len(found) == len(answers), answers
    return found


async def test_two_first_calls_are_two_generations_and_their_retries_take_one_each(database: Database) -> None:
    store = IntakeStore(database, admit_every)
    first = _ids(await store.accept([_request(), _request()]))
    assert len(set(first)) == 2
    retries = _ids(await store.accept([_request(1)])) + _ids(await store.accept([_request(1)]))
    assert sorted(retries) == sorted(first)
    assert await made_generations(database) == sorted(first)


async def test_a_retry_takes_the_generation_whose_answer_was_not_sent(database: Database) -> None:
    store = IntakeStore(database, admit_every)
    (lost,) = _ids(await store.accept([_request()]))
    (answered,) = _ids(await store.accept([_request()]))
    await GenerationStore(database).note_end_of_call("", "d", answered, "answered_at")
    assert _ids(await store.accept([_request(1)])) == [lost]


async def test_a_large_answer_counts_as_sent_when_it_may_have_arrived(database: Database) -> None:
    store, generations = IntakeStore(database, admit_every), GenerationStore(database)
    (small,) = _ids(await store.accept([_request()]))
    (large,) = _ids(await store.accept([_request()]))
    await generations.note_end_of_call("", "d", small, "answered_at", after_seconds=-20)
    await generations.note_end_of_call("", "d", large, "answered_at", after_seconds=100)
    assert _ids(await store.accept([_request(1)])) == [large]
    assert _ids(await store.accept([_request(2)])) == [large]


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
@pytest.mark.parametrize("money", ["none", "at_risk_usd", "spent_usd", "cost_usd", "continued"])
async def test_a_retry_takes_an_answered_failure_only_where_something_is_paid_for_it(
    database: Database, state: str, money: str
) -> None:
    store = IntakeStore(database, admit_every)
    (failed,) = _ids(await store.accept([_request()]))
    cost_usd = 0.5 if money == "cost_usd" else None
    await execute(
        database,
        """UPDATE generation_requests SET state = CAST(:state AS text), ended_at = now(), cost_usd = :cost_usd,
            error = CASE WHEN :state = 'FAILED' THEN CAST('{"code": "TASK_FAILED"}' AS jsonb) END WHERE id = :id""",
        id=failed, state=state, cost_usd=cost_usd,
    )  # fmt: skip
    sums = {"at_risk_usd": 0, "spent_usd": 0} | ({money: 0.5} if money.endswith(("risk_usd", "spent_usd")) else {})
    await execute(
        database,
        """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at, expected_cost_usd,
            billing, billing_at, at_risk_usd, spent_usd)
        VALUES ('sub_1', :id, 1, 'bfl', 'ACCEPTED', now(), 0.5, CAST(:billing AS text),
            CASE WHEN CAST(:billing AS text) IS NOT NULL THEN now() END, :at_risk_usd, :spent_usd)""",
        id=failed, billing={"spent_usd": "BILLED", "continued": "CONTINUED"}.get(money), **sums,
    )  # fmt: skip
    await GenerationStore(database).note_end_of_call("", "d", failed, "answered_at")
    (retry,) = _ids(await store.accept([_request(1)]))
    assert (retry == failed) == (money != "none")


async def test_a_retry_in_the_transaction_of_its_first_call_takes_that_generation(database: Database) -> None:
    first, repeat = _ids(await IntakeStore(database, admit_every).accept([_request(), _request(1)]))
    assert first == repeat


async def test_a_first_call_that_is_committed_after_its_retry_takes_the_generation_of_the_retry(
    database: Database,
) -> None:
    store = IntakeStore(database, admit_every)
    late = _request(waited_seconds=5)
    (made,) = _ids(await store.accept([_request(1)]))
    assert _ids(await store.accept([late])) == [made]
    assert _ids(await store.accept([_request(2)])) == [made]
    assert await made_generations(database) == [made]


async def test_a_first_call_that_is_received_after_a_retry_is_its_own_generation(database: Database) -> None:
    store = IntakeStore(database, admit_every)
    (made,) = _ids(await store.accept([_request(1)]))
    await execute(database, "UPDATE idempotency_keys SET fields = jsonb_set(fields, ARRAY[:id, 'at'], "
                  "to_jsonb((fields -> :id ->> 'at')::float - 10))", id=made)  # fmt: skip
    assert _ids(await store.accept([_request()])) != [made]


async def test_the_repeat_of_a_call_whose_client_left_during_the_commit_takes_its_generation(
    database: Database,
) -> None:
    store, first = IntakeStore(database, admit_every), _request(None)
    assert first.client_call is not None
    first.client_call.leaving.has_left = True
    (made,) = _ids(await store.accept([first]))
    assert _ids(await store.accept([_request(None)])) == [made]
    (answer,) = await store.accept([_request(None)])
    assert isinstance(answer, Undecided), "it has a connection again"
    assert first.client_call.leaving.is_recorded


async def test_an_uncounted_call_waits_until_the_leaving_of_an_identical_one_is_recorded(database: Database) -> None:
    store, generations = IntakeStore(database, admit_every), GenerationStore(database)
    (made,) = _ids(await store.accept([_request(None)]))
    (answer,) = await store.accept([_request(None)])
    assert isinstance(answer, Undecided)
    assert await made_generations(database) == [made]
    await generations.note_end_of_call("", "d", made, "left_at")
    again = _request(None)
    assert again.client_call is not None
    waited = replace(again, client_call=replace(again.client_call, has_waited=True))
    assert _ids(await store.accept([waited])) == [made]


async def test_an_uncounted_call_that_has_waited_for_news_creates_its_own_generation(database: Database) -> None:
    store = IntakeStore(database, admit_every)
    (made,) = _ids(await store.accept([_request(None)]))
    other = _request(None)
    assert other.client_call is not None
    waited = replace(other, client_call=replace(other.client_call, has_waited=True))
    assert _ids(await store.accept([waited])) != [made]
    assert len(await made_generations(database)) == 2


async def test_generations_without_an_answer_are_kept_before_others(database: Database) -> None:
    store, generations = IntakeStore(database, admit_every), GenerationStore(database)
    (lost,) = _ids(await store.accept([_request()]))
    for _ in range(3):
        for made in _ids(await store.accept([_request() for _ in range(50)])):
            await generations.note_end_of_call("", "d", made, "answered_at")
    assert _ids(await store.accept([_request(1)])) == [lost]


async def test_only_refusals_of_clients_that_count_are_kept(database: Database) -> None:
    refusal = GenerationError(ErrorCode.RATE_LIMITED, "slowly", retry_after_seconds=7.0)

    def refuse(usage: KeyUsage, generations: Any) -> Admission:
        return Admission([refusal] * len(generations), None)

    await insert_key(database, "key_1")
    requests = [replace(_request(api_key_id="key_1", owner="key_1"), is_bounded=True) for _ in range(2)]
    assert requests[1].client_call is not None
    requests[1] = replace(requests[1], client_call=replace(requests[1].client_call, retry_count=None))
    store = IntakeStore(database, refuse)
    assert await store.accept(requests) == [refusal, refusal]
    (row,) = await rows(database, "SELECT fields FROM idempotency_keys")
    assert [one[1:] for one in row["fields"]["refusals"]] == [[0, 7.0]]
    # They are needed for a minute or so, and many: they do not stay for as long as a generation's.
    await IntakeStore(database, admit_every).accept([_request(digest="other")])
    for passed, left in (("0 seconds", 2), ("6 minutes", 1)):
        await execute(database, f"UPDATE idempotency_keys SET created_at = created_at - interval '{passed}'")
        await store.forget_names(10)
        assert len(await rows(database, "SELECT 1 FROM idempotency_keys")) == left


async def test_calls_with_another_digest_or_owner_share_no_generation(database: Database) -> None:
    store = IntakeStore(database, admit_every)
    found = [
        _ids(await store.accept([request]))[0]
        for request in (_request(), _request(1, digest="e"), _request(1, owner="other"))
    ]
    assert len(set(found)) == 3


async def test_the_retry_of_a_refused_call_takes_no_other_calls_generation(database: Database) -> None:
    refusal = GenerationError(ErrorCode.RATE_LIMITED, "slowly")

    def admit_first(usage: KeyUsage, generations: Any) -> Admission:
        return Admission([None, *[refusal] * (len(generations) - 1)], None)

    await insert_key(database, "key_1")
    bounded = [replace(_request(api_key_id="key_1", owner="key_1"), is_bounded=True) for _ in range(3)]
    made, *refused = await IntakeStore(database, admit_first).accept(bounded)
    assert isinstance(made, Accepted)
    assert refused == [refusal, refusal]
    store = IntakeStore(database, admit_every)
    retries = [_ids(await store.accept([_request(1, owner="key_1")]))[0] for _ in range(2)]
    assert len({made.generation_id, *retries}) == 3
    assert _ids(await store.accept([_request(1, owner="key_1")])) == [made.generation_id], "no third one"


async def test_a_refused_call_is_joined_by_no_retry(database: Database) -> None:
    refusal = GenerationError(ErrorCode.RATE_LIMITED, "slowly")

    def refuse(usage: KeyUsage, generations: Any) -> Admission:
        return Admission([refusal] * len(generations), None)

    await execute(database, "INSERT INTO api_keys (id, prefix, key_hash, role, owner) "
                  "VALUES ('key_1', 'drk_x', '', 'client', '')")  # fmt: skip
    await execute(database, "INSERT INTO api_key_usage (api_key_id) VALUES ('key_1')")
    bounded = replace(_request(api_key_id="key_1"), is_bounded=True)
    retry = replace(_request(1, api_key_id="key_1"), is_bounded=True)
    assert await IntakeStore(database, refuse).accept([bounded, retry]) == [refusal, refusal]
    (row,) = await rows(database, "SELECT fields FROM idempotency_keys")
    assert list(row["fields"]) == ["refusals"]
    (made,) = _ids(await IntakeStore(database, admit_every).accept([retry]))
    assert await made_generations(database) == [made]


async def test_a_retry_waits_for_a_first_call_that_is_being_committed(database: Database) -> None:
    store, entered, released = IntakeStore(database, admit_every), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def admit_slowly(usage: KeyUsage, generations: Any) -> Admission:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(10)
        return Admission([None] * len(generations), None)

    await execute(database, "INSERT INTO api_keys (id, prefix, key_hash, role, owner) "
                  "VALUES ('key_1', 'drk_x', '', 'client', '')")  # fmt: skip
    await execute(database, "INSERT INTO api_key_usage (api_key_id) VALUES ('key_1')")
    bounded = replace(_request(api_key_id="key_1"), is_bounded=True)
    first = asyncio.create_task(IntakeStore(database, admit_slowly).accept([bounded]))
    await entered.wait()
    retry = asyncio.create_task(store.accept([_request(1, api_key_id="key_1")]))
    await eventually(lambda: is_waiting(database), within=10, what="the retry waits for the first call")
    released.set()
    assert _ids(await first) == _ids(await retry)
    (answer,) = await retry
    assert isinstance(answer, Accepted)
    assert (answer.state, answer.is_repeat) == (State.PENDING, True)
