"""Batches that are resumed days later: what an earlier day made is given the ids of that day.

Ids sort by the time they were made, and statements look for what is in flight in a range of ids. So an old batch is
one whose generations have old ids, which here are written into the rows when it has ended.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from chaos.batches import has_ended
from chaos.load import TIMEOUT_SECONDS, Load, until_answered
from chaos.rows import execute, rows
from chaos.terminal import Terminal
from libs.client.batches import picture_from
from libs.common.database.engine import Database
from libs.common.errors import GenerationError
from libs.common.ids import first_id, made_at

AGE = timedelta(days=3)
"""More than the two days that the range of what is in flight reaches back."""
_TIME_LENGTH = len("gen_") + 10
_TABLES = {
    "generation_requests": ("id", "continues_id"),
    "submissions": ("generation_id",),
    "poll_tasks": ("generation_id",),
    "callbacks": ("generation_id",),
}
# The first submit is refused, so that nothing is billed and the video is what a resume continues.
_REFUSED_ONCE = '[sim {"faults": [{"operation": "submit", "kind": "400", "times": 1}]}]'


async def resume_old_batches(
    channel: grpc.aio.Channel, database: Database, terminal: Terminal, load: Load, *, seed: int, count: int
) -> None:
    """Make `count` batches of an image and a video from it, let them end, make them old, and resume them."""
    gateway = GenerationServiceStub(channel)
    async with asyncio.TaskGroup() as clients:
        for number in range(count):
            clients.create_task(_resume_old(gateway, database, terminal, load, f"{seed}-o{number}"))


async def _resume_old(
    gateway: GenerationServiceStub, database: Database, terminal: Terminal, load: Load, name: str
) -> None:
    ticket = await until_answered(load, lambda: gateway.CreateBatch(_batch(name), timeout=TIMEOUT_SECONDS))
    load.batches.add(ticket.batch_id)
    if not await has_ended(gateway, load, ticket.batch_id):
        return
    await _until_written(database, terminal, ticket.batch_id)
    resume = gateway_pb2.ResumeBatchRequest(batch_id=ticket.batch_id)
    await until_answered(load, lambda: gateway.ResumeBatch(resume, timeout=TIMEOUT_SECONDS))
    load.old_resumes += 1


def _batch(name: str) -> gateway_pb2.CreateBatchRequest:
    image = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt=f"long ago #{name}-p", ref="p")
    image.parameters.update({"size_or_ratio": "320x320"})
    video = gateway_pb2.CreateGenerationRequest(
        model_identifier="kling-v1-6", prompt=f"long ago #{name}-v {_REFUSED_ONCE}", images_from=[picture_from("p")]
    )
    return gateway_pb2.CreateBatchRequest(requests=[image, video], idempotency_key=name)


async def _until_written(database: Database, terminal: Terminal, batch_id: str) -> None:
    while True:
        try:
            await age(database, terminal, batch_id)
        except GenerationError:
            await asyncio.sleep(1.0)
        else:
            return


async def age(database: Database, terminal: Terminal, batch_id: str) -> None:
    """Give an ended batch's generations the ids of earlier days. Raises GenerationError where the database is away."""
    found = await rows(database, "SELECT id FROM generation_requests WHERE batch_id = :id", id=batch_id)
    made_today = [row["id"] for row in found if made_at(row["id"]) > datetime.now(UTC) - AGE / 2]
    older = {today: first_id("gen", made_at(today) - AGE) + today[_TIME_LENGTH:] for today in made_today}
    updates = [
        f"UPDATE {table} t SET {column} = pair.older FROM unnest(CAST(:ids AS text[]), CAST(:older AS text[])) "
        f"AS pair(id, older) WHERE t.{column} = pair.id"
        for table, columns in _TABLES.items()
        for column in columns
    ]
    # What follows from an insert or an end followed when the row was made.
    await execute(
        database,
        "SET LOCAL session_replication_role = replica",
        *updates,
        ids=list(older),
        older=list(older.values()),
    )
    terminal.forget(older)
