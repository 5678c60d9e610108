"""Tells dispatchers that something of a batch has ended, so that what follows it does not wait for their sweep."""

from __future__ import annotations

from collections.abc import Sequence

from darkroom.dispatcher.v1 import dispatcher_pb2
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub

from libs.common.rpc.nudges import Nudges

_TIMEOUT_SECONDS = 2.0
_BETWEEN_SECONDS = 0.1


def batch_nudges(dispatcher: DispatcherServiceStub) -> Nudges:
    """Nudges with the ids of batches."""

    async def send(batch_ids: Sequence[str]) -> None:
        await dispatcher.Dispatch(dispatcher_pb2.DispatchRequest(batch_ids=batch_ids), timeout=_TIMEOUT_SECONDS)

    return Nudges(send, between_seconds=_BETWEEN_SECONDS)
