"""The running experiments as this gateway knows them, so that no request waits for the service that plans them."""

from __future__ import annotations

import secrets
from time import monotonic

import structlog
from darkroom.experiments.v1 import experiments_pb2 as messages
from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceStub

from libs.common.errors import GenerationError
from libs.common.experiments.allocation import BUCKETS, Allocations
from libs.common.experiments.messages import running_of
from libs.common.rpc.errors import answer_of

log = structlog.get_logger()
_RPC_SECONDS = 5.0


class Snapshot:
    """Asks for the experiments at each turn of a loop, and gets them when they have changed.

    Args:
        experiments: the service.
        stale_seconds: without news for so long, nobody knows what runs.
    """

    def __init__(self, experiments: ExperimentServiceStub, *, stale_seconds: float) -> None:
        self._experiments = experiments
        self._stale_seconds = stale_seconds
        self._revision = ""
        self._allocations = Allocations([], _chance)
        self._heard_at = float("-inf")
        self._is_away = False

    @property
    def current(self) -> Allocations | None:
        """All that runs; None where there was no news for too long."""
        return self._allocations if monotonic() - self._heard_at < self._stale_seconds else None

    async def refresh(self) -> bool:
        """One turn. A service that is away is no failure of the gateway's: requests run without it."""
        request = messages.GetAllocationsRequest(revision=self._revision)
        try:
            answer = await answer_of(self._experiments.GetAllocations(request, timeout=_RPC_SECONDS))
        except GenerationError as error:
            if not self._is_away:
                log.warning("no news of the experiments, requests will run without them", code=error.code)
            self._is_away = True
            return False
        self._is_away = False
        if not answer.is_unchanged and not self._take_over(answer):
            return False
        self._heard_at = monotonic()
        return False

    def _take_over(self, answer: messages.GetAllocationsResponse) -> bool:
        """Whether it makes sense: what does not is no news, and no reason for the gateway to stand still."""
        try:
            running = running_of(answer.allocations)
        except ValueError as error:
            log.exception("experiments refused, they make no sense", exc_info=error)
            return False
        self._allocations = Allocations(running, _chance)
        self._revision = answer.revision
        log.info("experiments taken over", running=len(running))
        return True


def _chance() -> int:
    return secrets.randbelow(BUCKETS)
