"""Pauses of a provider account's polls: while the provider refuses our credentials, one probe is made at a time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from libs.common.database.engine import Database
from libs.common.database.ranges import IN_RANGE
from libs.common.database.stores.sets import statement


@dataclass(frozen=True, slots=True)
class PausePolicy:
    """How a pause goes. `probe_seconds` between two probes; `limit_seconds`: for so long deadlines stand still."""

    probe_seconds: float = 30.0
    limit_seconds: float = 86_400.0

    @property
    def parameters(self) -> dict[str, float]:
        """What `PAUSED_SECONDS` and `TAKE_PROBE` ask for."""
        return {"probe_seconds": self.probe_seconds, "pause_seconds": self.limit_seconds}


DEFAULT_PAUSES = PausePolicy()

PAUSED_SECONDS = """COALESCE((
        SELECT LEAST(:pause_seconds, EXTRACT(EPOCH FROM now() - GREATEST(a.polls_paused_at, t.created_at)))
        FROM provider_accounts a WHERE a.provider_id = t.provider_id AND a.polls_paused_at IS NOT NULL), 0)"""
"""For how many seconds the deadline of `poll_tasks t` has stood still in the present pause."""

TAKE_PROBE = """
UPDATE provider_accounts a SET polls_probe_at = now() + make_interval(secs => :probe_seconds)
    FROM free WHERE a.provider_id = free.provider_id AND a.polls_paused_at IS NOT NULL AND a.polls_probe_at <= now()"""
"""Takes the probe of paused accounts among `free`: the first commit has it, for the condition is checked anew."""

_PAUSE = statement("""
INSERT INTO provider_accounts (provider_id, polls_paused_at, polls_probe_at)
SELECT id, now(), now() + make_interval(secs => :probe_seconds) FROM unnest(CAST(:ids AS text[])) AS id ORDER BY id
ON CONFLICT (provider_id) DO UPDATE
SET polls_paused_at = EXCLUDED.polls_paused_at, polls_probe_at = EXCLUDED.polls_probe_at
WHERE provider_accounts.polls_paused_at IS NULL""")

# A result that waits to be stored gets at least as long after the pause as the pause took.
_RESUME = statement(f"""
WITH resumed AS (
    UPDATE provider_accounts a SET polls_paused_at = NULL, polls_probe_at = NULL
    FROM (
        SELECT provider_id, polls_paused_at FROM provider_accounts
        WHERE provider_id = ANY(:ids) AND polls_paused_at IS NOT NULL ORDER BY provider_id FOR UPDATE) before
    WHERE a.provider_id = before.provider_id
    RETURNING a.provider_id, before.polls_paused_at
), storing AS (
    SELECT g.id FROM generation_requests g WHERE g.state = 'STORING' AND g.id {IN_RANGE}
        AND g.provider_id IN (SELECT provider_id FROM resumed)
)
UPDATE poll_tasks t
SET deadline_at = CASE WHEN t.ended_at IS NULL THEN t.deadline_at ELSE GREATEST(t.deadline_at, now()) END
    + make_interval(secs => LEAST(
        :pause_seconds, EXTRACT(EPOCH FROM now() - GREATEST(resumed.polls_paused_at, t.created_at))))
FROM resumed
WHERE t.provider_id = resumed.provider_id
    AND (t.ended_at IS NULL OR t.generation_id = ANY(ARRAY(SELECT id FROM storing)))""")


class PauseStore:
    """Writes of one process that uses providers' credentials for checks and downloads."""

    def __init__(self, database: Database, policy: PausePolicy) -> None:
        self._database = database
        self.policy = policy

    async def pause(self, provider_ids: Collection[str]) -> None:
        """Pause the polls of these accounts, as far as they are not paused."""
        if provider_ids:
            parameters = {**self.policy.parameters, "ids": sorted(set(provider_ids))}
            await self._database.transaction("pause_polls", lambda c: c.execute(_PAUSE, parameters))

    async def resume(self, provider_ids: Collection[str]) -> None:
        """End the pauses of these accounts; the deadlines of their tasks move by the length of the pause."""
        if provider_ids:
            ids = {"ids": sorted(set(provider_ids))}
            parameters = {**self.policy.parameters, **self._database.live_ids.parameters, **ids}
            await self._database.transaction("resume_polls", lambda c: c.execute(_RESUME, parameters))
