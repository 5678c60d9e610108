"""The parts of a batch upload: stored within the quota and the owner's share, and removed if the upload is aborted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from libs.common.database.records_batches import BatchRequest, Dependency, NewBatch, Opened
from libs.common.database.stores.batches import BatchStore, part_rows
from libs.common.errors import GenerationError
from services.gateway.access import Caller
from services.gateway.batches.upload_shares import UploadShares

log = structlog.get_logger()


class Parts:
    """Stores the parts of one batch, in the order in which they come, until it is opened or dropped.

    Args:
        store: keeps them.
        shares: bound what is stored for an owner at once.
        batch_id: what the batch will be called.
        caller: whose it will be.
        idempotency_key: the caller's name for it; empty for none.
    """

    def __init__(
        self, store: BatchStore, shares: UploadShares, batch_id: str, caller: Caller, idempotency_key: str
    ) -> None:
        self._store = store
        self._share = shares.storage_of(caller)
        self._batch_id = batch_id
        self._caller = caller
        self._idempotency_key = idempotency_key
        self._is_repeat = False
        self._is_begun = False
        self._storing: asyncio.Future[None] | None = None
        self._count = 0

    async def put(self, requests: Sequence[BatchRequest], *, places: int, reserved_usd: float) -> None:
        """Store a part, unless the batch is a repeat, of which nothing is stored.

        Args:
            requests: the part.
            places: how many of the requests that have come so far may be under way at once.
            reserved_usd: what these reserve, in US dollars.

        Raises GenerationError QUOTA_EXCEEDED and RATE_LIMITED, before anything is stored, where the key's quota has no
        room for what has come so far, and RATE_LIMITED where too much is stored for the owner.
        """
        if not self._is_begun:
            self._is_begun = True
            self._is_repeat = await self._store.is_named(self._caller.owner, self._idempotency_key)
        if self._is_repeat:
            return
        if self._caller.quota.is_bounded:
            await self._store.check_room(self._caller.key_id, places, reserved_usd)
        rows = part_rows(requests)
        self._share.take(len(rows))
        # Not cancelled with the caller: a part that is committed after the drop would stay.
        self._storing = asyncio.ensure_future(self._store.put(self._batch_id, self._count, rows))
        self._count += 1
        await asyncio.shield(self._storing)

    async def open(self, batch: NewBatch, dependencies: Sequence[Dependency]) -> Opened:
        """Commit the batch. Raises what `BatchStore.open` raises; its parts are gone then."""
        try:
            opened = await self._store.open(batch, dependencies, parts=self._count)
        except Exception:
            await self.drop()
            raise
        self._share.release()
        return opened

    async def drop(self) -> None:
        """Remove the parts. A part that is on its way is waited for."""
        try:
            if self._storing is not None:
                await asyncio.gather(self._storing, return_exceptions=True)
            if self._count:
                await self._store.drop(self._batch_id)
        except GenerationError as error:
            log.warning("parts of a batch are left", batch_id=self._batch_id, error=error)
        finally:
            self._share.release()
