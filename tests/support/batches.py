"""Batches as rows: opened from a few words, looked after by hand, held against what their generations say."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.database.engine import Database
from libs.common.database.records_batches import (
    BatchOptions,
    BatchRecord,
    BatchRequest,
    BatchTurn,
    Dependency,
    Estimated,
    NewBatch,
)
from libs.common.database.records_edge import Admission, KeyUsage
from libs.common.database.stores.batch_progress import BatchProgressStore
from libs.common.database.stores.batches import BatchStore, part_rows
from tests.support.rows import new_generation, rows

_numbers = itertools.count()
PROVIDERS = ("bfl", "openai")


def admit_all(usage: KeyUsage, places: int, reserved_usd: float) -> Admission:
    """Lets everything in."""
    return Admission([None], None)


async def open_batch(
    database: Database,
    count: int,
    *,
    needs: Mapping[int, Sequence[int]] | None = None,
    goes_on: Sequence[int] = (),
    providers: Sequence[str] = (PROVIDERS[0],),
    fields: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """Open a batch of `count` generations and answer its id.

    `needs`: by place, the places that it waits for; those that `goes_on` names run all the same. `providers` take
    turns.
    """
    number = next(_numbers)
    batch_id = f"batch_{number:06}"
    store = BatchStore(database, admit_all)
    requests = [
        BatchRequest(
            new_generation(
                batch_id=batch_id,
                batch_index=index,
                batch_ref=f"r{index}",
                provider_id=providers[index % len(providers)],
                **(fields or {}),
            )
        )
        for index in range(count)
    ]
    dependencies = [
        Dependency(index, need, index not in goes_on) for index, wanted in (needs or {}).items() for need in wanted
    ]
    await store.put(batch_id, 0, part_rows(requests))
    batch = NewBatch(
        id=batch_id,
        owner="",
        api_key_id="",
        request_id="req_1",
        total_tasks=count,
        options=BatchOptions(**options),
        estimate=Estimated(),
        reserved_usd=0.0,
        is_bounded=False,
    )
    await store.open(batch, dependencies, parts=1)
    return batch_id


async def look_after(database: Database, *, patience_seconds: float = 1_000.0) -> BatchTurn:
    """Turn until there is nothing more to do at once; the last turn that did something, else the last."""
    store = BatchProgressStore(database)
    found = turn = await store.look_after(PROVIDERS, patience_seconds=patience_seconds)
    while turn.has_more:
        turn = await store.look_after(PROVIDERS, patience_seconds=patience_seconds)
        found = turn if turn != BatchTurn() else found
    return found


async def batch(database: Database, batch_id: str) -> BatchRecord:
    """The batch as its owner sees it."""
    found = await BatchStore(database, admit_all).get(batch_id, owner=None)
    assert found is not None
    return found


async def tasks(database: Database, batch_id: str) -> list[dict[str, Any]]:
    """The rows of a batch by their places, without those that others continue."""
    return await rows(
        database,
        "SELECT * FROM generation_requests g WHERE batch_id = :batch_id AND NOT EXISTS ("
        "SELECT FROM generation_requests later WHERE later.continues_id = g.id) ORDER BY batch_index",
        batch_id=batch_id,
    )


def counters(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What the counters of a batch with these rows must be."""
    skipped = [row for row in found if row["state"] == "CANCELLED" and row["error"]["code"] == "SKIPPED"]
    return {
        "completed_tasks": sum(row["state"] == "SUCCESS" for row in found),
        "failed_tasks": sum(row["state"] == "FAILED" for row in found),
        "cancelled_tasks": sum(row["state"] == "CANCELLED" for row in found) - len(skipped),
        "skipped_tasks": len(skipped),
    }


def counters_of(record: BatchRecord) -> dict[str, int]:
    """What its counters are."""
    names = ("completed_tasks", "failed_tasks", "cancelled_tasks", "skipped_tasks")
    return {name: getattr(record, name) for name in names}
