"""The RPCs of DispatcherService: parse, call, answer."""

from __future__ import annotations

from typing import Any

import grpc
from darkroom.dispatcher.v1 import dispatcher_pb2 as messages
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceServicer

from libs.common.catalog import CatalogHolder
from libs.common.database.records import QueueRecord
from libs.common.database.stores.dispatching import DispatchStore
from libs.common.errors import Unimplemented
from libs.common.loops import Loop
from libs.common.rpc.messages import timestamp

Context = grpc.aio.ServicerContext[Any, Any]


class DispatcherHandlers(DispatcherServiceServicer):
    """Serves `darkroom.dispatcher.v1.DispatcherService`."""

    def __init__(self, store: DispatchStore, catalog: CatalogHolder, claiming: Loop) -> None:
        self._store = store
        self._catalog = catalog
        self._claiming = claiming

    async def Dispatch(self, request: messages.DispatchRequest, context: Context) -> messages.DispatchResponse:
        """See the proto."""
        self._claiming.wake()
        return messages.DispatchResponse()

    async def CancelGeneration(
        self, request: messages.CancelGenerationRequest, context: Context
    ) -> messages.CancelGenerationResponse:
        """See the proto."""
        raise Unimplemented("Cancelling generations is not served by this version.")

    async def GetQueue(self, request: messages.GetQueueRequest, context: Context) -> messages.GetQueueResponse:
        """See the proto."""
        found = {record.provider_id: record for record in await self._store.queue()}
        names = sorted({*found, *self._catalog.current.providers})
        empty = [QueueRecord(name, 0, 0, 0, 0, None) for name in names]
        queues = [self._message(found.get(record.provider_id, record)) for record in empty]
        return messages.GetQueueResponse(
            providers=[queue for queue in queues if request.provider_id in ("", queue.provider_id)]
        )

    def _message(self, record: QueueRecord) -> messages.ProviderQueue:
        provider = self._catalog.current.providers.get(record.provider_id)
        return messages.ProviderQueue(
            provider_id=record.provider_id,
            pending=record.pending,
            dispatching=record.dispatching,
            processing=record.processing,
            storing=record.storing,
            oldest_pending_at=timestamp(record.oldest_pending_at),
            concurrent_tasks_limit=(provider.limits.concurrent_tasks or 0) if provider else 0,
        )
