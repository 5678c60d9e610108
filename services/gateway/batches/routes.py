"""The routes of batches that are no RPC's: what comes in by lines, and what goes out as a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.common.database.stores.batches import BatchStore
from libs.common.errors import FieldViolation, GenerationError, InvalidRequest
from libs.common.rpc.json import to_json
from libs.common.rpc.requests import known
from libs.common.settings import Settings
from services.gateway.authentication import Authentication
from services.gateway.batches.export import FORMATS, Export
from services.gateway.batches.handlers import no_batch
from services.gateway.batches.lines import Lines
from services.gateway.batches.upload_shares import UploadShares
from services.gateway.holding import end_with_key
from services.gateway.own_server import OwnServer
from services.gateway.rest.callers import caller_of, key_of, metadata_of_request
from services.gateway.rest.problems import problem_response
from services.gateway.rest.queries import check_query
from services.gateway.sending import Downloads

ROUTES = ("POST /api/external/generation/batch/upload", "GET /api/external/generation/batch/{batch_id}/export")
_FORMAT = "format"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BatchRoutes:
    """Serves them.

    Args:
        own: this process's own RPCs, which uploads go through.
        authentication: knows callers.
        store: knows whose a batch is.
        export: reads what it has made.
        downloads: sends it.
        settings: bounds.
    """

    def __init__(
        self,
        own: OwnServer,
        authentication: Authentication,
        store: BatchStore,
        export: Export,
        *,
        downloads: Downloads,
        settings: Settings,
    ) -> None:
        self._authentication = authentication
        self._store = store
        self._export = export
        self._downloads = downloads
        self._lines = Lines(GenerationServiceStub(own.channel), settings)
        # A separate instance: each upload also holds a share as an UploadBatch call of the gateway to itself.
        self._shares = UploadShares.from_settings(settings)

    def routes(self) -> list[web.RouteDef]:
        """What is served, before whatever takes a batch's id in the same place."""
        handlers: dict[str, Handler] = dict(zip(ROUTES, (self._upload, self._send), strict=True))
        verbs_and_paths = {route: route.split() for route in ROUTES}
        return [web.route(verb, path, _told(handlers[route])) for route, (verb, path) in verbs_and_paths.items()]

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        caller = await caller_of(request, self._authentication)
        # Taken before the body is read, because a compressed body may be much larger than its size on the wire.
        with self._shares.turn_of(caller):
            answer = await self._lines.upload(request, metadata_of_request(request, key_of(request)))
        return web.json_response(to_json(answer))

    async def _send(self, request: web.Request) -> web.StreamResponse:
        caller = await caller_of(request, self._authentication)
        check_query(request, {_FORMAT})
        batch_id = known(request.match_info["batch_id"])
        if await self._store.get(batch_id, owner=caller.sees) is None:
            raise no_batch(batch_id)
        wanted = request.query.get(_FORMAT, "jsonl")
        if wanted not in FORMATS:
            raise InvalidRequest([FieldViolation(_FORMAT, "one_of", f"must be one of {', '.join(FORMATS)}")])
        end_with_key(request, caller)
        return await self._downloads.made(request, *self._export.file(batch_id, wanted))


def _told(handler: Handler) -> Handler:
    """The handler, with its refusals as problem documents."""

    async def serve(request: web.Request) -> Any:
        try:
            return await handler(request)
        except GenerationError as error:
            return problem_response(error)

    return serve
