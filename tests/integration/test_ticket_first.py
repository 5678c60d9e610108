"""Law 2: the ticket comes first, and the rest happens without the client."""

from __future__ import annotations

import asyncio
import time

from libs.common.database.engine import Database
from tests.conftest import StartStack
from tests.support.rows import rows
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

# A synchronous provider that answers after 30 s, and a submit that is answered after 30 s.
_SLOW = {
    "gpt-image-1": simulated("a slow answer", task_seconds=6),
    "flux-pro": simulated("a slow submit", submit_seconds=6, task_seconds=0),
}


async def test_the_ticket_does_not_wait_for_the_provider(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    running = await start_stack()
    # The first call of a channel pays for its connection.
    await running.create("dall-e-3", simulated("warm", task_seconds=0))

    async def carried(model: str, prompt: str) -> None:
        started = time.monotonic()
        generation_id = await running.create(model, prompt)
        took = time.monotonic() - started

        async def state() -> str:
            (row,) = await rows(database, "SELECT state FROM generation_requests WHERE id = :id", id=generation_id)
            return str(row["state"])

        async def under_way() -> bool:
            return len(await simulator.bills(prompt)) == 1

        async def done() -> bool:
            return await state() == "SUCCESS"

        assert took < 1
        await eventually(under_way, within=5, what=f"the provider of {model} works on it")
        assert await state() == "DISPATCHING"
        # No client asks from here on; the row alone is looked at.
        await eventually(done, within=30, what=f"the result of {model} has arrived")
        assert time.monotonic() - started > 5

    await asyncio.gather(*(carried(model, prompt) for model, prompt in _SLOW.items()))
