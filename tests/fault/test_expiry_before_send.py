"""Laws 3 and 4: a dispatcher whose lease has ended sends nothing, and its attempt counts as not accepted."""

from __future__ import annotations

from libs.common.database.engine import Database
from tests.conftest import StartStack
from tests.support.rows import execute, rows
from tests.support.running import SUCCESS
from tests.support.simulator import Simulator, simulated

# Committing the first attempt of each generation takes longer than a lease of these tests lives.
_SLOW = """
CREATE FUNCTION slow_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.attempt = 1 THEN PERFORM pg_sleep(3); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slow_attempt BEFORE INSERT ON submissions FOR EACH ROW EXECUTE FUNCTION slow_attempt()"""


async def test_attempt_whose_lease_ended_while_it_was_recorded_is_not_sent(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    await execute(database, _SLOW)
    running = await start_stack(settings={"DARKROOM_LEASE_SECONDS": "2"})
    await running.stack_replica("dispatcher")
    prompt = simulated("slow to record", task_seconds=0)
    generation = await running.ended(await running.create("flux-pro", prompt))
    assert (generation.status, generation.attempts) == (SUCCESS, 2)
    attempts = await rows(database, "SELECT state, error->>'message' AS error FROM submissions ORDER BY attempt")
    assert [attempt["state"] for attempt in attempts] == ["NOT_ACCEPTED", "ACCEPTED"]
    assert "not sent" in attempts[0]["error"]
    assert len(await simulator.bills(prompt)) == 1
