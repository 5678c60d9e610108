"""Who is claimed next, and how many: turns, priorities, rates, budgets and breakers, shared by all dispatchers."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.catalog import Provider
from libs.common.database.engine import Database
from libs.common.database.records import Fallback
from libs.common.database.records_dispatch import (
    AccountRecord,
    Attempt,
    ClaimedGeneration,
    DispatchOutcome,
    Grant,
    Unavailable,
)
from libs.common.database.states import BreakerState, State, SubmissionState
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.cancelling import CancelStore
from services.dispatcher import breaker, limits
from services.dispatcher.breaker import Calls
from tests.support.catalogs import PROVIDER
from tests.support.dispatchers import Dispatcher
from tests.support.rows import execute, insert, new_generation, rows

OTHERS = (Fallback("flux-dev", "bfl", {"a": 1}, 0.025), Fallback("dall-e-3", "tuzi", {"b": 2}, 0.04))


async def _waiting(database: Database, *generations: dict[str, Any]) -> None:
    await insert(database, [new_generation(**fields) for fields in generations])


def _provider(**fields: Any) -> Provider:
    return Provider.model_validate({**PROVIDER.model_dump(mode="json"), **fields})


async def _claim_within(dispatcher: Dispatcher, provider: Provider, room: int) -> list[ClaimedGeneration]:
    return await dispatcher.claim_as([provider.id], lambda account: limits.grant(account, provider, room))


async def _row(database: Database) -> dict[str, Any]:
    (row,) = await rows(database, "SELECT * FROM generation_requests")
    return row


async def test_keys_take_turns_however_many_one_of_them_has(database: Database) -> None:
    await _waiting(database, *({"api_key_id": "key_many"} for _ in range(50)))
    await _waiting(database, *({"api_key_id": "key_few"} for _ in range(3)))
    dispatcher = Dispatcher(database)
    order = []
    for _ in range(8):
        (claimed,) = await dispatcher.claim(1)
        (row,) = await rows(database, "SELECT api_key_id FROM generation_requests WHERE id = :id", id=claimed.id)
        order.append(row["api_key_id"])
    # One after the other, until the one has no more.
    assert Counter(order[:6]) == {"key_many": 3, "key_few": 3}
    assert all(first != second for first, second in itertools.pairwise(order[:6]))
    assert set(order[6:]) == {"key_many"}


async def test_places_of_one_claim_go_round_the_keys(database: Database) -> None:
    for key in ("key_a", "key_b", "key_c"):
        await _waiting(database, *({"api_key_id": key} for _ in range(10)))
    await Dispatcher(database).claim(9)
    found = await rows(
        database, "SELECT api_key_id, count(*) AS count FROM generation_requests WHERE state = 'DISPATCHING' GROUP BY 1"
    )
    assert {row["api_key_id"]: row["count"] for row in found} == {"key_a": 3, "key_b": 3, "key_c": 3}


async def test_waiting_makes_up_for_priority(database: Database) -> None:
    await _waiting(database, {"id": "gen_low", "priority": 0})
    await execute(database, "UPDATE generation_requests SET turn_at = turn_at - interval '10 min'")
    await _waiting(database, {"id": "gen_high", "priority": 9})
    assert [claimed.id for claimed in await Dispatcher(database).claim(1)] == ["gen_low"]


async def test_priority_counts_within_a_key_alone(database: Database) -> None:
    await _waiting(database, *({"api_key_id": "key_loud", "priority": 9} for _ in range(5)))
    await _waiting(database, {"api_key_id": "key_quiet", "priority": 0, "id": "gen_quiet"})
    assert "gen_quiet" in {claimed.id for claimed in await Dispatcher(database).claim(2)}


async def test_claims_of_an_account_do_not_wait_for_those_of_another(database: Database) -> None:
    await _waiting(database, {"id": "gen_a", "provider_id": "bfl"}, {"id": "gen_b", "provider_id": "kling"})
    dispatcher, asked = Dispatcher(database), list[str]()

    def decide(account: AccountRecord) -> Grant:
        asked.append(account.provider_id)
        return Grant(account, 10)

    await AccountStore(database).change(["bfl"], lambda account: account)
    with database.engine.connect() as other:
        other.execute(sa.text("SELECT FROM provider_accounts WHERE provider_id = 'bfl' FOR UPDATE"))
        claimed = await dispatcher.claims.claim(["bfl", "kling"], decide)
        assert ([one.id for one in claimed], asked) == (["gen_b"], ["kling"])
    assert [one.id for one in await dispatcher.claims.claim(["bfl", "kling"], decide)] == ["gen_a"]


async def test_no_more_is_claimed_than_the_day_may_cost(database: Database) -> None:
    await _waiting(database, *({"expected_cost_usd": 0.4} for _ in range(20)))
    provider = _provider(limits={"daily_spend_usd": 2.0})
    dispatchers = [Dispatcher(database, owner=f"owner-{number}") for number in range(4)]
    claimed = await asyncio.gather(*(_claim_within(dispatcher, provider, 3) for dispatcher in dispatchers))
    assert sum(map(len, claimed)) == 5
    (account,) = await AccountStore(database).read()
    assert account.spend_today_usd == pytest.approx(2.0)
    assert await _claim_within(dispatchers[0], provider, 3) == []


async def test_what_was_not_taken_can_be_spent_again(database: Database) -> None:
    await _waiting(database, *({"expected_cost_usd": 1.0} for _ in range(3)))
    dispatcher = Dispatcher(database)
    refused, unsent, taken = await dispatcher.claim(3)
    await dispatcher.record_attempts([Attempt(f"sub_{g.id}", g.id, g.lease_token) for g in (refused, taken)])
    facts: dict[str, Any] = {"provider_id": "bfl", "claimed_cost_usd": 1.0}
    await dispatcher.end(
        [
            DispatchOutcome(
                refused.id,
                refused.lease_token,
                State.PENDING,
                submission_id=f"sub_{refused.id}",
                submission_state=SubmissionState.NOT_ACCEPTED,
                delay_seconds=60,
                **facts,
            ),
            DispatchOutcome(
                taken.id,
                taken.lease_token,
                State.SUCCESS,
                submission_id=f"sub_{taken.id}",
                submission_state=SubmissionState.COMPLETED,
                outputs=[],
                **facts,
            ),
        ]
    )
    await dispatcher.claims.give_back([unsent.claim])
    (account,) = await AccountStore(database).read()
    assert account.spend_today_usd == pytest.approx(1.0)


async def test_a_new_day_begins_with_nothing_spent(database: Database) -> None:
    await _waiting(database, *({"expected_cost_usd": 1.0} for _ in range(4)))
    provider = _provider(limits={"daily_spend_usd": 2.0})
    dispatcher = Dispatcher(database)
    assert len(await _claim_within(dispatcher, provider, 10)) == 2
    await execute(database, "UPDATE provider_accounts SET spend_day = spend_day - 1")
    assert len(await _claim_within(dispatcher, provider, 10)) == 2


async def test_the_rate_holds_for_all_dispatchers_together(database: Database) -> None:
    await _waiting(database, *({} for _ in range(50)))
    provider = _provider(limits={"requests_per_minute": 300})
    dispatchers = [Dispatcher(database, owner=f"owner-{number}") for number in range(4)]
    claimed = await asyncio.gather(*(_claim_within(dispatcher, provider, 10) for dispatcher in dispatchers))
    # A second's worth, and what comes back while the four take their turns.
    assert 5 <= sum(map(len, claimed)) <= 7


async def test_one_probe_passes_an_open_breaker_whoever_asks(database: Database) -> None:
    await _waiting(database, *({} for _ in range(20)))
    provider = _provider(breaker={"minimum_calls": 1, "open_seconds": 60})
    store = AccountStore(database)
    await store.change(["bfl"], lambda account: breaker.counted(account, Calls(failed=1), provider.breaker))
    dispatchers = [Dispatcher(database, owner=f"owner-{number}") for number in range(4)]
    assert await _claim_within(dispatchers[0], provider, 5) == []
    await execute(database, "UPDATE provider_accounts SET breaker_retry_at = now() - interval '1 s'")

    claimed = await asyncio.gather(*(_claim_within(dispatcher, provider, 5) for dispatcher in dispatchers))

    assert sum(map(len, claimed)) == 1
    (account,) = await store.read()
    assert account.breaker_state is BreakerState.HALF_OPEN
    await store.change(["bfl"], lambda account: breaker.counted(account, Calls(answered=1), provider.breaker))
    assert len(await _claim_within(dispatchers[1], provider, 5)) == 5


async def test_without_work_there_is_no_probe(database: Database) -> None:
    provider = _provider(breaker={"minimum_calls": 1, "open_seconds": 60})
    store = AccountStore(database)
    await store.change(["bfl"], lambda account: breaker.counted(account, Calls(failed=1), provider.breaker))
    await execute(database, "UPDATE provider_accounts SET breaker_retry_at = now() - interval '1 s'")
    assert await _claim_within(Dispatcher(database), provider, 5) == []
    (account,) = await store.read()
    assert account.breaker_state is BreakerState.OPEN


async def test_reports_of_several_dispatchers_add_up(database: Database) -> None:
    provider = _provider(breaker={"minimum_calls": 40})
    store = AccountStore(database)
    await asyncio.gather(
        *(
            store.change(["bfl"], lambda account: breaker.counted(account, Calls(failed=5), provider.breaker))
            for _ in range(8)
        )
    )
    (account,) = await store.read()
    assert account.breaker_state is BreakerState.OPEN


async def test_what_waits_for_an_account_that_takes_nothing_goes_on_with_the_next(database: Database) -> None:
    await _waiting(database, {"fallbacks": OTHERS}, {"id": "gen_alone"})
    dispatcher = Dispatcher(database)
    moved = await dispatcher.claims.fall_back([Unavailable("bfl", "PROVIDER_UNAVAILABLE")], 10)
    assert list(moved.values()) == ["tuzi"]
    (row,) = await rows(database, "SELECT * FROM generation_requests WHERE id <> 'gen_alone'")
    assert (row["model_identifier"], row["provider_id"], row["parameters"]) == ("dall-e-3", "tuzi", {"b": 2})
    assert (row["expected_cost_usd"], row["fallbacks"], row["state"]) == (0.04, [], "PENDING")
    (step,) = row["fallback_path"]
    assert (step["model_identifier"], step["code"]) == ("flux-pro", "PROVIDER_UNAVAILABLE")


async def test_where_none_can_take_it_it_waits_where_it_is(database: Database) -> None:
    await _waiting(database, {"fallbacks": OTHERS})
    both = [Unavailable("bfl", "PROVIDER_UNAVAILABLE"), Unavailable("tuzi", "PROVIDER_UNAVAILABLE")]
    assert await Dispatcher(database).claims.fall_back(both, 10) == {}
    assert (await _row(database))["model_identifier"] == "flux-pro"


async def test_what_a_dispatcher_has_claimed_stays_with_its_model(database: Database) -> None:
    await _waiting(database, {"fallbacks": OTHERS})
    dispatcher = Dispatcher(database)
    await dispatcher.claim(1)
    assert await dispatcher.claims.fall_back([Unavailable("bfl", "PROVIDER_UNAVAILABLE")], 10) == {}


async def test_only_what_the_day_cannot_pay_goes_on(database: Database) -> None:
    await _waiting(
        database,
        {"id": "gen_dear", "fallbacks": OTHERS, "expected_cost_usd": 3.0},
        {"id": "gen_cheap", "fallbacks": OTHERS, "expected_cost_usd": 0.5},
    )
    moved = await Dispatcher(database).claims.fall_back([Unavailable("bfl", "QUOTA_EXCEEDED", 1.0)], 10)
    assert set(moved) == {"gen_dear"}


@pytest.mark.parametrize("state", ["STARTED", "UNCERTAIN"])
async def test_what_may_run_at_one_provider_never_goes_to_another(database: Database, state: str) -> None:
    await _waiting(database, {"id": "gen_1", "fallbacks": OTHERS})
    await execute(
        database,
        "INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at) "
        "VALUES ('sub_1', 'gen_1', 1, 'bfl', :state, CASE WHEN :state <> 'STARTED' THEN now() END)",
        state=state,
    )
    dispatcher = Dispatcher(database)
    assert await dispatcher.claims.fall_back([Unavailable("bfl", "PROVIDER_UNAVAILABLE")], 10) == {}
    (claimed,) = await dispatcher.claim(1)
    assert claimed.may_run_elsewhere == (state == "UNCERTAIN")


async def test_a_refusal_goes_on_with_the_fallback_that_was_chosen(database: Database) -> None:
    await _waiting(database, {"fallbacks": OTHERS})
    dispatcher = Dispatcher(database)
    (claimed,) = await dispatcher.claim(1)
    assert claimed.fallbacks == OTHERS
    await dispatcher.record_attempts([Attempt("sub_1", claimed.id, claimed.lease_token)])
    outcome = DispatchOutcome(
        claimed.id,
        claimed.lease_token,
        State.PENDING,
        submission_id="sub_1",
        submission_state=SubmissionState.NOT_ACCEPTED,
        error={"code": "QUOTA_EXCEEDED"},
        fallback=0,
    )
    assert await dispatcher.end([outcome]) == [State.PENDING]
    row = await _row(database)
    assert (row["model_identifier"], row["parameters"], row["attempts_elsewhere"]) == ("flux-dev", {"a": 1}, 1)
    assert [entry["model_identifier"] for entry in row["fallbacks"]] == ["dall-e-3"]
    assert [step["code"] for step in row["fallback_path"]] == ["QUOTA_EXCEEDED"]
    (attempt,) = await rows(database, "SELECT * FROM submissions")
    assert (attempt["model_identifier"], attempt["state"]) == ("flux-pro", "NOT_ACCEPTED")


async def test_nothing_is_sent_after_a_cancel_was_asked_for(database: Database) -> None:
    await _waiting(database, {})
    dispatcher = Dispatcher(database)
    (claimed,) = await dispatcher.claim(1)
    assert await CancelStore(database).request(claimed.id) is State.DISPATCHING
    assert await dispatcher.record_attempts([Attempt("sub_1", claimed.id, claimed.lease_token)]) == [False]
    back = DispatchOutcome(claimed.id, claimed.lease_token, State.PENDING)
    assert await dispatcher.end([back]) == [State.CANCELLED]
    row = await _row(database)
    assert (row["state"], row["attempts"], row["error"]["code"]) == ("CANCELLED", 0, "TASK_CANCELLED")


async def test_grants_without_places_claim_nothing(database: Database) -> None:
    await _waiting(database, {})
    claims = Dispatcher(database).claims
    assert await claims.claim(["bfl"], lambda account: Grant(account, 0)) == []
