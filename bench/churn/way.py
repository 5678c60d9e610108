"""The way of generations through the tables, by the statements that services send, without services."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from libs.common.database.engine import Database
from libs.common.database.records import NewGeneration
from libs.common.database.records_dispatch import Attempt, ClaimedGeneration, DispatchOutcome, Grant, NewTask
from libs.common.database.records_edge import Admission, KeyUsage, NewRequest
from libs.common.database.records_tasks import PollOutcome, StoreOutcome
from libs.common.database.states import State, SubmissionState, TaskState
from libs.common.database.stores.claiming import ClaimStore
from libs.common.database.stores.dispatching import DispatchStore
from libs.common.database.stores.intake import IntakeStore
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.storing import ResultStore
from libs.common.ids import new_id

PROVIDER = "bfl"
GROUP = 100
_URL = "https://provider.example/results/0123456789abcdef0123456789abcdef/sample.png?signature=0123456789abcdef"
_OUTPUT = {
    "type": "image",
    "object_key": "bfl/2026/11/28/gen_01jdq2v8x4gh6m1nq0w2r3t5ab/0.png",
    "content_type": "image/png",
    "size_bytes": 1_482_033,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
_PROMPT = (
    "A red apple on a wooden table by a window, morning light, shallow depth of field, a white cup beside it, "
    "the grain of the wood in focus, photographed on film, warm colours"
)


def _new_generation() -> NewGeneration:
    return NewGeneration(
        id=new_id("gen"),
        model_identifier="flux-pro",
        provider_id=PROVIDER,
        media_type="image",
        prompt=_PROMPT,
        input_images=[],
        number_of_outputs=1,
        parameters={"width": 1_024, "height": 1_024, "output_format": "png", "safety_tolerance": 2},
        priority=5,
        when_uncertain="fail",
        user_id=None,
        labels={},
        request_id=new_id("req"),
        owner="shop",
        api_key_id="key_shop",
    )


def _admit_all(_: KeyUsage, generations: Sequence[NewGeneration]) -> Admission:
    return Admission([None] * len(generations), None)


class Way:
    """One replica of each service's statements.

    Args:
        database: where the rows are.
        owner: a name that no other has.
    """

    def __init__(self, database: Database, owner: str) -> None:
        self._intake = IntakeStore(database, _admit_all)
        self._claims = ClaimStore(database, owner=owner, lease_seconds=30)
        self._dispatches = DispatchStore(database, owner=owner)
        self._polls = PollStore(database, owner=owner, lease_seconds=30)
        self._results = ResultStore(database, owner=owner, lease_seconds=30)
        self.claim_seconds: list[float] = []

    async def take_in(self, count: int) -> None:
        """Generations come."""
        await self._intake.accept([NewRequest(_new_generation()) for _ in range(count)])

    async def carry(self) -> int:
        """Take in a group and bring one to its end: claimed, submitted, polled twice and stored; how many ended."""
        await self.take_in(GROUP)
        began = perf_counter()
        claimed = await self._claims.claim([PROVIDER], lambda account: Grant(account, GROUP))
        self.claim_seconds.append(perf_counter() - began)
        await self._submit(claimed)
        for state in (None, State.STORING):
            await self._poll(state)
        results = await self._results.claim(GROUP)
        ended = [StoreOutcome(one.id, one.lease_token, State.SUCCESS, outputs=[_OUTPUT]) for one in results]
        return sum(await self._results.end(ended)) if ended else 0

    async def _submit(self, claimed: Sequence[ClaimedGeneration]) -> None:
        attempts = [Attempt(new_id("sub"), one.id, one.lease_token) for one in claimed]
        if not attempts:
            return
        await self._dispatches.record_attempts(attempts)
        await self._dispatches.end(
            [
                DispatchOutcome(
                    attempt.generation_id,
                    attempt.lease_token,
                    State.PROCESSING,
                    submission_id=attempt.submission_id,
                    submission_state=SubmissionState.ACCEPTED,
                    task=NewTask(attempt.submission_id, "flux", _URL, "fixed", 1, 600),
                    http_status=200,
                    latency_ms=412,
                )
                for attempt in attempts
            ]
        )

    async def _poll(self, state: State | None) -> None:
        tasks = await self._polls.claim({PROVIDER: GROUP})
        found = [
            PollOutcome(*task.lease, TaskState.PROCESSING, progress=50)
            if state is None
            else PollOutcome(
                *task.lease,
                TaskState.SUCCESS,
                progress=100,
                generation_state=state,
                sources=[{"type": "image", "url": _URL}],
                cost_usd=0.04,
            )
            for task in tasks
        ]
        if found:
            await self._polls.end(found)
