"""What the face does with a generation: creates it once, waits for its end, reads its files. All as the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
from aiohttp import web
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.common import metrics
from libs.common.catalog import CatalogHolder
from libs.common.database.stores.generations import GenerationStore
from libs.common.errors import NotFound
from libs.common.rpc.context import current_request_id
from libs.common.rpc.errors import answer_of, from_rpc_error
from libs.common.storage.objects import ObjectStore
from services.gateway.access import Caller
from services.gateway.authentication import Authentication
from services.gateway.requests import validate
from services.gateway.rest.callers import key_of, metadata_of_request

_ENDED = {
    gateway_pb2.GENERATION_STATUS_SUCCESS,
    gateway_pb2.GENERATION_STATUS_FAILED,
    gateway_pb2.GENERATION_STATUS_CANCELLED,
}
# OpenAI's clients count their own retries here; they send no key by which a repeat could be told.
_RETRY_COUNT_HEADER = "x-stainless-retry-count"
_RETRY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, and what goes with each of their calls."""

    caller: Caller
    metadata: grpc.aio.Metadata
    is_retry: bool


class Calls:
    """The caller's generations.

    Args:
        gateway: this process's own RPCs.
        authentication: knows callers.
        catalog: the models.
        generations: where they are read by what they have in common, and deleted.
        objects: their files.
        timeout_seconds: for each RPC that is no stream.
        wait_seconds: how long an answer may take: a client's own retry comes not much later.
    """

    def __init__(
        self,
        gateway: GenerationServiceStub,
        authentication: Authentication,
        catalog: CatalogHolder,
        generations: GenerationStore,
        objects: ObjectStore,
        *,
        timeout_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._gateway = gateway
        self._authentication = authentication
        self.catalog = catalog
        self._generations = generations
        self._objects = objects
        self._timeout_seconds = timeout_seconds
        self._join_seconds = int(wait_seconds) + _RETRY_SECONDS

    async def asking(self, request: web.Request) -> Asking:
        """Who asks. GenerationError for a key that is not good."""
        key = key_of(request)
        caller = await self._authentication.caller(key, request.remote or "")
        metadata = metadata_of_request(request, key)
        is_retry = request.headers.get(_RETRY_COUNT_HEADER, "0") not in {"", "0"}
        return Asking(caller, metadata, is_retry)

    async def create(self, asking: Asking, message: gateway_pb2.CreateGenerationRequest) -> str:
        """The id of a new generation; for a client's own retry, that of its first try. GenerationError as the RPC."""
        earlier = await self._earlier(asking, message) if asking.is_retry else None
        if earlier is not None:
            metrics.REPEATS.labels("client_retry").inc()
            return earlier
        call = self._gateway.CreateGeneration(message, metadata=asking.metadata, timeout=self._timeout_seconds)
        return (await answer_of(call)).id

    async def _earlier(self, asking: Asking, message: gateway_pb2.CreateGenerationRequest) -> str | None:
        wanted = validate(message, self.catalog.current, caller=asking.caller, request_id=current_request_id())
        request_hash = wanted.generation.request_hash
        if request_hash is None:
            return None
        return await self._generations.same(asking.caller.owner, request_hash, within_seconds=self._join_seconds)

    async def get(self, asking: Asking, generation_id: str) -> gateway_pb2.Generation:
        """One generation. GenerationError as the RPC."""
        request = gateway_pb2.GetGenerationRequest(id=generation_id)
        call = self._gateway.GetGeneration(request, metadata=asking.metadata, timeout=self._timeout_seconds)
        return (await answer_of(call)).generation

    async def ended(self, asking: Asking, generation_id: str, *, within: float) -> gateway_pb2.Generation | None:
        """The generation once it has ended; None where that takes longer than `within` seconds."""
        request = gateway_pb2.WatchGenerationRequest(id=generation_id)
        stream = self._gateway.WatchGeneration(request, metadata=asking.metadata)
        try:
            async with asyncio.timeout(within):
                async for change in stream:
                    if change.generation.status in _ENDED:
                        return change.generation
        except TimeoutError:
            return None
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            stream.cancel()
        return None

    async def cancel(self, asking: Asking, generation_id: str) -> gateway_pb2.Generation:
        """Ask for a cancel; the generation as it stands then."""
        request = gateway_pb2.CancelGenerationRequest(id=generation_id)
        call = self._gateway.CancelGeneration(request, metadata=asking.metadata, timeout=self._timeout_seconds)
        return (await answer_of(call)).generation

    async def delete(self, asking: Asking, generation_id: str) -> None:
        """Show an ended generation to nobody any more, and remove its files."""
        keys = await self._generations.delete(generation_id, owner=asking.caller.owner)
        for key in keys or ():
            await self._objects.delete(key)

    async def object_keys(self, asking: Asking, generation_id: str) -> list[str]:
        """Where the generation's files are in our storage; those that stayed with the provider are left out."""
        record = await self._generations.get(generation_id, owner=asking.caller.sees)
        if record is None:
            raise NotFound("id", f"There is no generation {generation_id[:100]!r}.")
        return [output["object_key"] for output in record.outputs or () if "object_key" in output]

    async def read(self, key: str) -> bytes:
        """A whole file."""
        return b"".join([chunk async for chunk in self._objects.stream(key)])

    def stream(self, key: str) -> AsyncIterator[bytes]:
        """A file in pieces."""
        return self._objects.stream(key)
