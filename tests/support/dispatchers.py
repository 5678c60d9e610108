"""A dispatcher's stores with grants as a test wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import AccountRecord, Attempt, ClaimedGeneration, DispatchOutcome, Grant
from libs.common.database.states import State, SubmissionState
from libs.common.database.stores.claiming import ClaimStore, Decide
from libs.common.database.stores.dispatching import DispatchStore

PROVIDER = "bfl"


class Dispatcher:
    """What one dispatcher process reads and writes."""

    def __init__(self, database: Database, *, owner: str = "one", lease_seconds: float = 30) -> None:
        self.claims = ClaimStore(database, owner=owner, lease_seconds=lease_seconds)
        self.outcomes = DispatchStore(database, owner=owner)

    async def claim(
        self, places: int = 10, concurrent_tasks: int | None = None, *, budget_usd: float | None = None
    ) -> list[ClaimedGeneration]:
        """Claim for one provider account, once no other dispatcher has it locked."""
        return await self.claim_as(
            [PROVIDER], lambda account: Grant(account, places, concurrent_tasks, budget_usd=budget_usd)
        )

    async def claim_as(self, provider_ids: Sequence[str], decide: Decide) -> list[ClaimedGeneration]:
        """Claim for these provider accounts as `ClaimStore.claim` does, again until none of them was locked."""
        claimed: list[ClaimedGeneration] = []
        missed = set(provider_ids)

        def noted(account: AccountRecord) -> Grant:
            missed.discard(account.provider_id)
            return decide(account)

        while missed:
            claimed += await self.claims.claim(sorted(missed), noted)
        return claimed

    async def record_attempts(self, attempts: Sequence[Attempt]) -> list[bool]:
        """See the store."""
        return await self.outcomes.record_attempts(attempts)

    async def end(self, outcomes: Sequence[DispatchOutcome]) -> list[State | None]:
        """See the store."""
        return await self.outcomes.end(outcomes)


def attempt_outcome(
    claimed: ClaimedGeneration, submission_id: str, state: State, submission_state: SubmissionState, **facts: Any
) -> DispatchOutcome:
    """Make the outcome of an attempt to submit, as the dispatcher that holds the claim writes it.

    Args:
        claimed: the generation, with the lease and the estimated cost of the claim.
        submission_id: of the attempt, which was recorded.
        state: of the generation from now on.
        submission_state: what became of the attempt.
        facts: other fields of the outcome: `error`, `task`, `outputs`, `cost_usd` in US dollars.
    """
    return DispatchOutcome(
        claimed.id,
        claimed.lease_token,
        state,
        provider_id=PROVIDER,
        claimed_cost_usd=claimed.expected_cost_usd,
        submission_id=submission_id,
        submission_state=submission_state,
        **facts,
    )
