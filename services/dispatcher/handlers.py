"""The RPCs of DispatcherService: parse, call, answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
from darkroom.dispatcher.v1 import dispatcher_pb2 as messages
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceServicer

from libs.common.catalog import CatalogHolder
from libs.common.database.records_dispatch import AccountRecord, QueueRecord
from libs.common.database.states import BreakerState
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.dispatching import DispatchStore
from libs.common.rpc.messages import timestamp
from services.dispatcher.claims import Claims

Context = grpc.aio.ServicerContext[Any, Any]


class DispatcherHandlers(DispatcherServiceServicer):
    """Serves `darkroom.dispatcher.v1.DispatcherService`."""

    def __init__(
        self,
        store: DispatchStore,
        accounts: AccountStore,
        catalog: CatalogHolder,
        claims: Claims,
        *,
        wake_batches: Callable[[], None],
    ) -> None:
        self._wake_batches = wake_batches
        self._store = store
        self._accounts = accounts
        self._catalog = catalog
        self._claims = claims

    async def Dispatch(self, request: messages.DispatchRequest, context: Context) -> messages.DispatchResponse:
        """See the proto."""
        self._claims.wake()
        if request.batch_ids:
            self._wake_batches()
        return messages.DispatchResponse()

    async def CancelGeneration(
        self, request: messages.CancelGenerationRequest, context: Context
    ) -> messages.CancelGenerationResponse:
        """See the proto."""
        self._claims.cancel(request.generation_ids)
        return messages.CancelGenerationResponse()

    async def GetQueue(self, request: messages.GetQueueRequest, context: Context) -> messages.GetQueueResponse:
        """See the proto."""
        found = {record.provider_id: record for record in await self._store.queue()}
        accounts = {account.provider_id: account for account in await self._accounts.read()}
        names = sorted({*found, *self._catalog.current.providers})
        return messages.GetQueueResponse(
            providers=[
                self._message(found.get(name) or QueueRecord(name, 0, 0, 0, 0, None), accounts.get(name))
                for name in names
                if request.provider_id in ("", name)
            ]
        )

    def _message(self, record: QueueRecord, account: AccountRecord | None) -> messages.ProviderQueue:
        provider = self._catalog.current.providers.get(record.provider_id)
        state = account.breaker_state if account else BreakerState.CLOSED
        retry_at = account.breaker_retry_at if account else None
        return messages.ProviderQueue(
            provider_id=record.provider_id,
            pending=record.pending,
            dispatching=record.dispatching,
            processing=record.processing,
            storing=record.storing,
            oldest_pending_at=timestamp(record.oldest_pending_at),
            concurrent_tasks_limit=(provider.limits.concurrent_tasks or 0) if provider else 0,
            breaker_state=messages.BreakerState.Value(f"BREAKER_STATE_{state}"),
            breaker_retry_at=timestamp(datetime.fromtimestamp(retry_at, UTC)) if retry_at is not None else None,
            spend_today_usd=account.spend_today_usd if account else 0.0,
            daily_spend_limit_usd=provider.limits.daily_spend_usd if provider else None,
        )
