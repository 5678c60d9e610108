"""The running experiments as gateways are told of them, read from the database at most once in a while."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from time import monotonic

from darkroom.experiments.v1 import experiments_pb2 as messages

from libs.common.database.stores.experiments import ExperimentStore
from libs.common.experiments.allocation import BUCKETS, Allocations, Running
from libs.common.experiments.messages import allocation_message
from services.experiments.messages import running_of

# However many gateways ask.
_FRESH_SECONDS = 0.5


class RunningExperiments:
    """All that allocation needs to know."""

    def __init__(self, store: ExperimentStore) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._found: list[Running] = []
        self._revision = ""

    async def snapshot(self, known_revision: str) -> messages.GetAllocationsResponse:
        """All running experiments; without them where the caller has this revision."""
        await self._refresh()
        if known_revision == self._revision:
            return messages.GetAllocationsResponse(revision=self._revision, is_unchanged=True)
        return messages.GetAllocationsResponse(
            revision=self._revision, allocations=[allocation_message(running) for running in self._found]
        )

    async def allocations(self) -> Allocations:
        """Ready to allocate."""
        await self._refresh()
        return Allocations(self._found, lambda: secrets.randbelow(BUCKETS))

    async def _refresh(self) -> None:
        async with self._lock:
            if monotonic() - self._read_at < _FRESH_SECONDS:
                return
            began = monotonic()
            records = await self._store.running()
            self._found = [running_of(record) for record in records]
            whole = "".join(f"{record.id} {record.updated_at.isoformat()} {record.version}\n" for record in records)
            self._revision = hashlib.sha256(whole.encode()).hexdigest()[:32]
            self._read_at = began
