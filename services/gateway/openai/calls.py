"""What the face does with a generation: creates it once, waits for its end, reads its files. All as the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from aiohttp import web
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.common.catalog import CatalogHolder
from libs.common.database.records_edge import Leaving
from libs.common.database.stores.client_calls import Mark
from libs.common.database.stores.generations import GenerationStore
from libs.common.errors import GenerationError, NotFound
from libs.common.rpc.errors import answer_of, from_rpc_error
from libs.common.storage.objects import ObjectStore
from services.gateway.access import Caller
from services.gateway.authentication import Authentication
from services.gateway.client_calls import METADATA_KEY, digest_of, metadata_value
from services.gateway.openai.sent import SentAnswer, travel_seconds
from services.gateway.rest.callers import caller_of, key_of, metadata_of_request
from services.gateway.rest.queries import check_query
from services.gateway.sending import StoredFile

log = structlog.get_logger()
_ENDED = {
    gateway_pb2.GENERATION_STATUS_SUCCESS,
    gateway_pb2.GENERATION_STATUS_FAILED,
    gateway_pb2.GENERATION_STATUS_CANCELLED,
}
# OpenAI's clients count their own retries in this header; they send no idempotency key.
_RETRY_COUNT_HEADER = "x-stainless-retry-count"
# And how long they wait for an answer, in seconds. Sources: _base_client.py of openai-python, client.ts of openai-node.
_TIMEOUT_HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")
# They wait for 600 s by default, and make two retries.
_DEFAULT_TIMEOUT_SECONDS, _TRIES, _WINDOW_LIMIT_SECONDS = 600.0, 3, 3_600.0
_RETRIES_LIMIT = 1_000
# Sent with each request by clients of hosts that version this API; it says nothing about the request itself.
_API_VERSION = "api-version"


@dataclass(frozen=True, slots=True)
class Asking:
    """The caller of a request, the metadata of the RPCs made for it, and which retry of its client it is.

    Attributes:
        caller: whose API key it came with.
        metadata: of each RPC.
        retry_count: 0 for a first try; None: its client counts none.
        timeout_seconds: how long its client waits for an answer; 0: not known.
        received: when it was received, in seconds of the monotonic clock.
        is_connected: whether the client still waits for the answer.
    """

    caller: Caller
    metadata: grpc.aio.Metadata
    retry_count: int | None
    timeout_seconds: float
    received: float
    is_connected: Callable[[], bool]


class Calls:
    """The caller's generations.

    Args:
        gateway: this process's own RPCs.
        authentication: knows callers.
        catalog: the models.
        generations: where they are read and deleted.
        objects: their files.
        received_at: since when what is read now may have been here, in seconds of the monotonic clock.
        timeout_seconds: for each RPC that is no stream.
    """

    def __init__(
        self,
        gateway: GenerationServiceStub,
        authentication: Authentication,
        catalog: CatalogHolder,
        generations: GenerationStore,
        objects: ObjectStore,
        *,
        received_at: Callable[[], float],
        timeout_seconds: float,
    ) -> None:
        self._received_at = received_at
        self._gateway = gateway
        self._authentication = authentication
        self.catalog = catalog
        self._generations = generations
        self._objects = objects
        self._timeout_seconds = timeout_seconds
        self._notes: set[asyncio.Task[None]] = set()

    async def asking(self, request: web.Request, query: Collection[str] = ()) -> Asking:
        """Return who asks.

        Raises GenerationError for a key that is not valid, and for query parameters that are not among `query`.
        """
        received = self._received_at()
        caller = await caller_of(request, self._authentication)
        check_query(request, {_API_VERSION, *query})
        metadata = metadata_of_request(request, key_of(request))
        return Asking(
            caller,
            metadata,
            _retry_count(request),
            _timeout_seconds(request),
            received,
            lambda: request.transport is not None,
        )

    async def create(self, asking: Asking, message: gateway_pb2.CreateGenerationRequest) -> str:
        """Create a generation and return its id; for a client's own retry, the id of the generation of its first try.

        Raises GenerationError as the RPC, and ConnectionResetError for a client that has closed the connection: its
        retry may create the generation.
        """
        if not asking.is_connected():
            raise ConnectionResetError("the client closed the connection before its request was accepted")
        window_seconds = min(_WINDOW_LIMIT_SECONDS, _TRIES * (asking.timeout_seconds or _DEFAULT_TIMEOUT_SECONDS) + 60)
        leaving = Leaving()
        value = metadata_value(asking.retry_count, asking.received, window_seconds, asking.timeout_seconds, leaving)
        metadata = grpc.aio.Metadata(*asking.metadata, (METADATA_KEY, value))
        call = self._gateway.CreateGeneration(message, metadata=metadata, timeout=self._timeout_seconds)
        try:
            return (await answer_of(call)).id
        except asyncio.CancelledError:
            leaving.has_left = True
            if leaving.generation_id:
                # The answer to the RPC is on its way, and nobody else looks any more.
                digest = digest_of(asking.caller.key_id, message)
                self._begin_note(self._note_end(asking.caller.owner, digest, leaving.generation_id, "left_at", 0.0))
            raise

    async def answered(
        self,
        asking: Asking,
        message: gateway_pb2.CreateGenerationRequest,
        generation_id: str,
        made: Awaitable[web.Response],
    ) -> web.Response:
        """Return the answer that `made` makes. Whether it is sent, or its client leaves before, is recorded then.

        Of several generations, a retry takes one whose answer was not sent.
        """
        digest = digest_of(asking.caller.key_id, message)
        in_order = asyncio.Lock()

        async def note_in_order(mark: Mark, seconds: float) -> None:
            async with in_order:
                await self._note_end(asking.caller.owner, digest, generation_id, mark, seconds)

        def note(mark: Mark, size_bytes: int) -> None:
            seconds = travel_seconds(size_bytes) if mark == "answered_at" else 0.0
            self._begin_note(note_in_order(mark, seconds))

        try:
            return SentAnswer(await made, note)
        except Exception:
            # The error is the answer, a small one.
            note("answered_at", 0)
            raise
        except asyncio.CancelledError:
            note("left_at", 0)
            raise

    def _begin_note(self, note: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(note)
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _note_end(self, owner: str, digest: str, generation_id: str, mark: Mark, seconds: float) -> None:
        try:
            await self._generations.note_end_of_call(owner, digest, generation_id, mark, after_seconds=seconds)
        except GenerationError:
            # Without it, a retry may take this generation though another was meant: nothing is paid twice.
            log.warning("the end of a call is not recorded", generation_id=generation_id, exc_info=True)

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
        """Ask for a cancel, and return the generation as it stands then. ALREADY_ENDED for one that has ended."""
        request = gateway_pb2.CancelGenerationRequest(id=generation_id)
        call = self._gateway.CancelGeneration(request, metadata=asking.metadata, timeout=self._timeout_seconds)
        return (await answer_of(call)).generation

    async def delete(self, asking: Asking, generation_id: str) -> None:
        """Show an ended generation to nobody any more, and remove its files."""
        keys = await self._generations.delete(generation_id, owner=asking.caller.owner)
        for key in keys or ():
            await self._objects.delete(key)

    async def files(self, asking: Asking, generation_id: str) -> list[StoredFile]:
        """The generation's files in our storage; those that stayed with the provider are left out."""
        record = await self._generations.get(generation_id, owner=asking.caller.sees)
        if record is None:
            raise NotFound("id", f"There is no generation {generation_id[:100]!r}.")
        return [file for output in record.outputs or () if (file := StoredFile.of(output)) is not None]

    async def read(self, key: str) -> bytes:
        """A whole file."""
        return b"".join([chunk async for chunk in self._objects.stream(key)])


def _retry_count(request: web.Request) -> int | None:
    """Return which retry of its client a request is; 1 for a count that is no number; None where none is given."""
    given = request.headers.get(_RETRY_COUNT_HEADER, "").strip()
    if not given:
        return None
    return min(int(given), _RETRIES_LIMIT) if given.isascii() and given.isdigit() and len(given) < 10 else 1


def _timeout_seconds(request: web.Request) -> float:
    """Return how long the client waits for an answer; 0 where it does not say so in a way that can be read."""
    given = next((value for name in _TIMEOUT_HEADERS if (value := request.headers.get(name))), "")
    try:
        seconds = float(given)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds <= _WINDOW_LIMIT_SECONDS else 0.0
