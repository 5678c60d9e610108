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
from services.gateway.own_server import OwnServer
from services.gateway.rest.callers import key_of, metadata_of_request
from services.gateway.rest.problems import problem_response
from services.gateway.sending import send

ROUTES = ("POST /api/external/generation/batch/upload", "GET /api/external/generation/batch/{batch_id}/export")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BatchRoutes:
    """Serves them.

    Args:
        own: this process's own RPCs, which uploads go through.
        authentication: knows callers.
        store: knows whose a batch is.
        export: reads what it has made.
        settings: bounds. Who takes nothing of an export for as long as a watcher may is dropped.
    """

    def __init__(
        self,
        own: OwnServer,
        authentication: Authentication,
        store: BatchStore,
        export: Export,
        settings: Settings,
    ) -> None:
        self._authentication = authentication
        self._store = store
        self._export = export
        self._write_seconds = settings.watch_write_timeout_seconds
        self._lines = Lines(GenerationServiceStub(own.channel), settings)

    def routes(self) -> list[web.RouteDef]:
        """What is served, before whatever takes a batch's id in the same place."""
        handlers: dict[str, Handler] = dict(zip(ROUTES, (self._upload, self._send), strict=True))
        verbs_and_paths = {route: route.split() for route in ROUTES}
        return [web.route(verb, path, _told(handlers[route])) for route, (verb, path) in verbs_and_paths.items()]

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        key = key_of(request)
        await self._authentication.caller(key, request.remote or "")
        answer = await self._lines.upload(request, metadata_of_request(request, key))
        return web.json_response(to_json(answer))

    async def _send(self, request: web.Request) -> web.StreamResponse:
        caller = await self._authentication.caller(key_of(request), request.remote or "")
        batch_id = known(request.match_info["batch_id"])
        if await self._store.get(batch_id, owner=caller.sees) is None:
            raise no_batch(batch_id)
        wanted = request.query.get("format", "jsonl")
        if wanted not in FORMATS:
            raise InvalidRequest([FieldViolation("format", "one_of", f"must be one of {', '.join(FORMATS)}")])
        make = self._export.lines if wanted == "jsonl" else self._export.archive
        chunks = make(batch_id)
        response = web.StreamResponse(
            headers={
                "content-type": FORMATS[wanted],
                "content-disposition": f'attachment; filename="{batch_id}.{wanted}"',
            }
        )
        return await send(request, response, chunks, write_seconds=self._write_seconds)


def _told(handler: Handler) -> Handler:
    """The handler, with its refusals as problem documents."""

    async def serve(request: web.Request) -> Any:
        try:
            return await handler(request)
        except GenerationError as error:
            return problem_response(error)

    return serve
