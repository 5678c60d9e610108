"""Continuations have what their originals had: each column of the request, and each input image, whatever its age."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.ranges import IdRange
from libs.common.database.records import Fallback, ImageFrom, NewGeneration
from libs.common.database.records_batches import BatchOptions, BatchRequest, Estimated, NewBatch
from libs.common.database.records_dispatch import ClaimedGeneration, DispatchOutcome, Grant, NewTask
from libs.common.database.states import State
from libs.common.database.stores.batches import BatchStore, part_rows
from libs.common.database.stores.inserting import COPIED_COLUMNS
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.resuming import ResumeStore
from libs.common.database.stores.submissions import Decision, SubmissionStore
from libs.common.ids import first_id, new_id
from tests.support.batches import admit_all, look_after, open_batch, tasks
from tests.support.dispatchers import Dispatcher
from tests.support.rows import execute, insert, new_generation, rows

OUTPUT = {"type": "image", "object_key": "made/0.png", "content_type": "image/png", "size_bytes": 9}
ERROR: dict[str, Any] = {"code": "TASK_FAILED", "message": "no", "details": {}, "is_retryable": False}
TASK = NewTask("task_1", "flux", None, "fixed", 1_000, 60)
# One value for each column of a request, none of them its default.
FULL: dict[str, Any] = {
    "model_identifier": "kling",
    "provider_id": "bfl",
    "media_type": "video",
    "prompt": "a red apple falls",
    "input_images": ["https://example.com/1.png"],
    "preprocess": {"preset": "fast"},
    "number_of_outputs": 2,
    "parameters": {"seed": 7},
    "priority": 8,
    "when_uncertain": "resubmit",
    "user_id": "u1",
    "labels": {"team": "red"},
    "request_id": "req_full",
    "trace_parent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "api_key_id": "key_1",
    "owner": "shop",
    "expected_cost_usd": 0.07,
    "reserved_usd": 0.09,
    "fallbacks": (Fallback("flux-dev", "tuzi", {"b": 2}, 0.09),),
    "callback_url": "https://example.com/hook",
    "request_hash": "ab" * 16,
    "experiment_id": "exp_1",
    "variant_id": "var_1",
    "experiment_version": 3,
    "requested_model_identifier": "flux-pro",
}
_FAILED = """
UPDATE generation_requests SET state = 'FAILED', ended_at = now(), error = '{"code": "TASK_FAILED"}' WHERE id = :id"""
_UNCERTAIN = """
INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at)
VALUES ('sub_1', :id, 1, 'bfl', 'UNCERTAIN', now())"""


def test_new_generations_carry_every_column_that_continuations_copy() -> None:
    assert set(COPIED_COLUMNS) <= {field.name for field in fields(NewGeneration)}
    of_batches = {"batch_id", "batch_index", "batch_ref", "images_from"}
    assert set(COPIED_COLUMNS) - of_batches == set(FULL), "the test below compares all of them"


async def _batch_of(database: Database, generation: NewGeneration) -> None:
    batch_id = generation.batch_id or ""
    store = BatchStore(database, admit_all)
    await store.put(batch_id, 0, part_rows([BatchRequest(generation)]))
    batch = NewBatch(batch_id, "shop", "key_1", "req_1", 1, BatchOptions(), Estimated(), 0.0, is_bounded=False)
    await store.open(batch, [], parts=1)


async def _resume(database: Database, original_id: str) -> str:
    (row,) = await rows(database, "SELECT batch_id FROM generation_requests WHERE id = :id", id=original_id)
    await ResumeStore(database, admit_all).resume(row["batch_id"], [], owner=None, new_id=lambda: "gen_continuation")
    return "gen_continuation"


async def _resubmit(database: Database, original_id: str) -> str:
    await execute(database, _UNCERTAIN, id=original_id)
    decision = Decision("RESUBMITTED", billing="NOT_BILLED")
    await SubmissionStore(database).resolve("sub_1", decision, new_id="gen_continuation")
    return "gen_continuation"


async def _attach(database: Database, original_id: str) -> str:
    await execute(database, _UNCERTAIN, id=original_id)
    decision = Decision("ATTACHED", task=TASK)
    await SubmissionStore(database).resolve("sub_1", decision, new_id="gen_continuation")
    return "gen_continuation"


@pytest.mark.parametrize("continued", [_resume, _resubmit, _attach])
async def test_a_continuation_equals_its_original_in_every_column_of_the_request(
    database: Database, continued: Callable[[Database, str], Awaitable[str]]
) -> None:
    original = new_generation(
        **FULL,
        id="gen_a_full_one",
        batch_id="batch_full",
        batch_index=0,
        batch_ref="film",
        images_from=(ImageFrom("picture", 1),),
    )
    await _batch_of(database, original)
    await execute(database, _FAILED, id=original.id)
    new = await continued(database, original.id)
    sql = f"SELECT {', '.join(COPIED_COLUMNS)} FROM generation_requests WHERE id = :id"
    ((before,), (after,)) = [await rows(database, sql, id=one) for one in (original.id, new)]
    assert after == before
    assert all(value not in (None, "", [], {}) for name, value in before.items() if name != "batch_index")
    (row,) = await rows(database, "SELECT continues_id FROM generation_requests WHERE id = :id", id=new)
    assert row["continues_id"] == original.id


async def test_an_adopted_task_keeps_every_column_of_its_request(database: Database) -> None:
    adopted = new_generation(**FULL, id="gen_adopted")
    await PollStore(database, owner="one", lease_seconds=30).adopt(adopted, TASK)
    await insert(database, [new_generation(**FULL, id="gen_created")])
    sql = f"SELECT {', '.join(COPIED_COLUMNS)} FROM generation_requests WHERE id = :id"
    ((one,), (other,)) = [await rows(database, sql, id=found) for found in ("gen_adopted", "gen_created")]
    assert one == other


class Film:
    """A batch of a picture and of a film that starts from it, whose film has failed and is resumed days later."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.dispatcher = Dispatcher(database)
        self.batch_id = ""

    async def claim(self) -> list[ClaimedGeneration]:
        return await self.dispatcher.claims.claim(["bfl"], lambda account: Grant(account, 10))

    async def made(self, *, picture_fails: bool = False, goes_on: bool = False) -> None:
        """Open the batch, end the picture, and fail the film."""
        self.batch_id = await open_batch(self.database, 2, needs={1: [0]}, goes_on=[1] if goes_on else [])
        sql = """UPDATE generation_requests SET images_from = '[{"batch_ref": "r0", "output": 0}]'
            WHERE batch_id = :id AND batch_index = 1"""
        await execute(self.database, sql, id=self.batch_id)
        (picture,) = await self.claim()
        await self.end(picture, fails=picture_fails)
        await look_after(self.database)
        (film,) = await self.claim()
        await self.end(film, fails=True)
        await look_after(self.database)

    async def end(self, claimed: ClaimedGeneration, *, fails: bool) -> None:
        facts: dict[str, Any] = {"error": ERROR} if fails else {"outputs": [OUTPUT]}
        state = State.FAILED if fails else State.SUCCESS
        await self.dispatcher.end([DispatchOutcome(claimed.id, claimed.lease_token, state, **facts)])

    async def resumed_later(self, codes: list[str]) -> ClaimedGeneration:
        """Resume when the picture is older than the id range of unfinished generations; the film as it is claimed."""
        live = IdRange(first_id("gen", datetime.now(UTC) - timedelta(hours=1)), "gen_zzzz")
        (picture, film) = await tasks(self.database, self.batch_id)
        assert picture["id"] < live.first
        self.database.live_ids.hear(live)
        sql = 'UPDATE generation_requests SET error = error || \'{"code": "TASK_TIMEOUT"}\' WHERE id = :id'
        await execute(self.database, sql, id=film["id"])
        store = ResumeStore(self.database, admit_all)
        resumed = await store.resume(self.batch_id, codes, owner=None, new_id=lambda: new_id("gen"))
        assert resumed is not None
        assert resumed.tasks == 1
        await look_after(self.database)
        (claimed,) = await self.claim()
        assert claimed.id > live.first
        return claimed


async def test_a_resumed_generation_has_its_input_whatever_the_age_of_its_maker(database: Database) -> None:
    film = Film(database)
    await film.made()
    claimed = await film.resumed_later([])
    assert [image.source for image in claimed.made_images] == [OUTPUT]
    assert claimed.images_from == (ImageFrom("r0", 0),)


async def test_an_input_that_its_owner_deleted_is_a_fault_and_not_left_out(database: Database) -> None:
    film = Film(database)
    await film.made()
    await execute(database, "UPDATE generation_requests SET deleted_at = now() WHERE state = 'SUCCESS'")
    (image,) = (await film.resumed_later([])).made_images
    assert (image.source, image.is_left_out) == (None, False)
    assert image.fault == "The result of the request 'r0' of the batch was deleted by its owner."


async def test_an_input_whose_maker_was_forgotten_is_a_fault_and_not_left_out(database: Database) -> None:
    film = Film(database)
    await film.made(goes_on=True)
    claimed = await film.resumed_later([])
    await film.end(claimed, fails=True)
    await execute(database, "DELETE FROM generation_requests WHERE batch_ref = 'r0'")
    await execute(
        database, "UPDATE generation_requests SET state = 'PENDING', ended_at = NULL WHERE id = :id", id=claimed.id
    )
    (again,) = await film.claim()
    (image,) = again.made_images
    assert (image.source, image.is_left_out) == (None, False)
    assert image.fault == "The batch has no request with the ref 'r0' any more."


async def test_an_input_that_need_not_succeed_is_left_out_where_it_failed(database: Database) -> None:
    film = Film(database)
    await film.made(picture_fails=True, goes_on=True)
    claimed = await film.resumed_later(["TASK_TIMEOUT"])
    (image,) = claimed.made_images
    assert (image.source, image.fault, image.is_left_out) == (None, None, True)
