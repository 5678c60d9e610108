"""What the console reads: right for every filter, page by page, and bounded however much there is."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.states import State
from libs.common.database.stores.console_reads import WINDOW, ConsoleReads
from libs.common.database.stores.generations import GenerationFilter
from tests.support.rows import execute, insert, new_generation, rows

_ERROR = """'{"code": "TASK_FAILED", "message": "x", "details": {}, "is_retryable": false}'"""
FILTERS: list[dict[str, Any]] = [
    {},
    {"owner": "one"},
    {"model_identifier": "flux-dev"},
    {"request_id": "req_7"},
    {"states": (State.FAILED,)},
    {"states": (State.HELD, State.PENDING, State.DISPATCHING)},
    {"states": (State.SUCCESS,)},
    {"states": (State.FAILED, State.SUCCESS), "owner": "two"},
    {"labels": {"team": "a"}},
    {"labels": {"team": "a"}, "owner": "one", "model_identifier": "flux-pro"},
    {"api_key_id": "key_1"},
]


async def _filled(database: Database) -> list[dict[str, Any]]:
    chance = random.Random(7)
    made = [
        new_generation(
            owner=chance.choice(["one", "two", "three"]),
            model_identifier=chance.choice(["flux-pro", "flux-dev"]),
            request_id=f"req_{chance.randrange(20)}",
            labels={"team": chance.choice("ab")} if chance.random() < 0.5 else {},
            api_key_id=chance.choice(["key_1", "key_2"]),
        )
        for _ in range(120)
    ]
    await insert(database, made)
    for state, error, outputs in (("FAILED", _ERROR, "NULL"), ("SUCCESS", "NULL", "'[]'")):
        ids = [one.id for one in chance.sample(made, 30)]
        await execute(
            database,
            f"""UPDATE generation_requests SET state = '{state}', ended_at = now(), error = {error},
                outputs = {outputs} WHERE id = ANY(:ids) AND ended_at IS NULL""",
            ids=ids,
        )
    return await rows(database, "SELECT * FROM generation_requests ORDER BY id DESC")


def _is_wanted(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    plain = {name: value for name, value in wanted.items() if name not in {"states", "labels"}}
    return (
        all(row[name] == value for name, value in plain.items())
        and (not wanted.get("states") or row["state"] in wanted["states"])
        and wanted.get("labels", {}).items() <= row["labels"].items()
    )


async def test_every_filter_finds_what_there_is_page_by_page(database: Database) -> None:
    reads, there = ConsoleReads(database), await _filled(database)
    bounds = (there[100]["id"], there[10]["id"])
    for wanted, is_bounded in itertools.product(FILTERS, (False, True)):
        after, before = bounds if is_bounded else (None, None)
        found: list[str] = []
        for _ in range(20):
            page = await reads.generations(11, GenerationFilter(**wanted), before=before, after=after)
            found += [one.id for one in page.generations]
            before = page.before
            if before is None:
                break
        expected = [
            row["id"]
            for row in there
            if _is_wanted(row, wanted) and (not is_bounded or bounds[0] <= row["id"] < bounds[1])
        ]
        assert found == expected, wanted


@pytest.fixture
async def many(database: Database) -> Database:
    """More than is looked through for a page; the oldest is another's."""
    await execute(
        database,
        f"""INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt,
                number_of_outputs, when_uncertain, request_id, owner)
            SELECT 'gen_' || lpad(i::text, 8, '0'), 'PENDING', CASE WHEN i = 1 THEN 'rare' ELSE 'flux-pro' END, 'bfl',
                'image', 'x', 1, 'fail', 'req', CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END
            FROM generate_series(1, {WINDOW + 2_000}) AS i""",
    )
    return database


async def test_what_no_index_leads_to_is_looked_for_in_windows(many: Database) -> None:
    reads, rare = ConsoleReads(many), GenerationFilter(model_identifier="rare")
    first = await reads.generations(50, rare, before=None)
    assert (first.generations, first.is_partial) == ([], True)
    assert first.before == "gen_00002001"
    second = await reads.generations(50, rare, before=first.before)
    assert [one.id for one in second.generations] == ["gen_00000001"]
    assert (second.before, second.is_partial) == (None, False)
    # A window of an owner's own is as large, and reaches further back.
    led = await reads.generations(50, GenerationFilter(owner="odd", model_identifier="rare"), before=None)
    assert [one.id for one in led.generations] == ["gen_00000001"]


async def test_what_an_index_leads_to_is_found_at_once(many: Database) -> None:
    reads = ConsoleReads(many)
    page = await reads.generations(50, GenerationFilter(states=(State.PENDING, State.HELD)), before=None)
    assert (len(page.generations), page.is_partial) == (50, False)
    assert page.generations[0].id == f"gen_{WINDOW + 2_000:08}"
    assert page.before == page.generations[-1].id


async def test_what_stands_behind_a_generation(database: Database) -> None:
    (generation,) = made = [new_generation(input_images=["https://x.example/a.png"])]
    await insert(database, made)
    behind = await ConsoleReads(database).behind(generation.id)
    assert behind.request.input_images == ["https://x.example/a.png"]
    assert (behind.task, behind.rating) == (None, None)


async def test_failures_of_a_batch_are_counted_by_code(database: Database) -> None:
    made = [new_generation(batch_id="batch_1", batch_index=place) for place in range(5)]
    await insert(database, made)
    await execute(
        database,
        f"UPDATE generation_requests SET state = 'FAILED', ended_at = now(), error = {_ERROR} WHERE batch_index < 3",
    )
    (found,) = await ConsoleReads(database).failures("batch_1", limit=100)
    assert (found.code, found.message, found.number) == ("TASK_FAILED", "x", 3)
    (found,) = await ConsoleReads(database).failures("batch_1", limit=2)
    assert found.number == 2
