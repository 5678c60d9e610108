"""The routes under /v1, and the way in which their errors are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.common.catalog import Model
from libs.common.database.stores.generations import GenerationStore
from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.rpc.deadlines import GRACE_SECONDS
from libs.common.rpc.service import Frame
from libs.common.storage.objects import ObjectStore
from services.gateway.authentication import Authentication
from services.gateway.failures import BROKEN_BODY, broken_body
from services.gateway.openai.calls import Calls
from services.gateway.openai.errors import MADE, not_found, refused, refused_by_http
from services.gateway.openai.images import Images
from services.gateway.openai.videos import Videos
from services.gateway.own_server import OwnServer
from services.gateway.rest.bodies import Bodies
from services.gateway.sending import Downloads

log = structlog.get_logger()
ROUTES = (
    "POST /v1/images/generations",
    "POST /v1/images/edits",
    "POST /v1/videos",
    "GET /v1/videos/{id}",
    "GET /v1/videos/{id}/content",
    "DELETE /v1/videos/{id}",
    "GET /v1/models",
    "GET /v1/models/{id}",
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def openai_routes(
    own: OwnServer, authentication: Authentication, frame: Frame, generations: GenerationStore, objects: ObjectStore
) -> list[web.RouteDef]:
    """What is served under /v1."""
    settings = frame.settings
    bodies = Bodies(limit_bytes=settings.http_body_limit_bytes, timeout_seconds=settings.http_body_timeout_seconds)
    calls = Calls(
        GenerationServiceStub(own.channel),
        authentication,
        frame.catalog,
        generations,
        objects,
        received_at=frame.lag.received_at,
        timeout_seconds=settings.rpc_timeout_seconds + GRACE_SECONDS,
    )
    images = Images(calls, bodies, wait_seconds=settings.openai_wait_seconds)
    downloads = Downloads(objects, write_seconds=settings.watch_write_timeout_seconds)
    videos, models = Videos(calls, bodies, downloads), _Models(calls)
    handlers: dict[str, Handler] = {
        "POST /v1/images/generations": images.generate,
        "POST /v1/images/edits": images.edit,
        "POST /v1/videos": videos.create,
        "GET /v1/videos/{id}": videos.retrieve,
        "GET /v1/videos/{id}/content": videos.content,
        "DELETE /v1/videos/{id}": videos.delete,
        "GET /v1/models": models.list,
        "GET /v1/models/{id}": models.retrieve,
    }
    routes = []
    for route in ROUTES:
        verb, path = route.split()
        routes.append(web.route(verb, path, with_openai_errors(handlers[route])))
    return routes


class _Models:
    """/v1/models: the catalog."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def list(self, request: web.Request) -> web.Response:
        await self._calls.asking(request)
        models = sorted(self._calls.catalog.current.models.values(), key=lambda model: model.identifier)
        return web.json_response({"object": "list", "data": [_model(model) for model in models]})

    async def retrieve(self, request: web.Request) -> web.Response:
        await self._calls.asking(request)
        return web.json_response(_model(self._calls.catalog.current.model(request.match_info["id"])))


def _model(model: Model) -> dict[str, Any]:
    return {"id": model.identifier, "object": "model", "created": 0, "owned_by": model.provider}


def with_openai_errors(handler: Handler) -> Handler:
    """Return the handler with its errors answered in the shape of OpenAI's API."""

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return refused_by_http(error)
        except ConnectionResetError:
            raise
        except NotFound as error:
            return refused(error, request[MADE]) if MADE in request else not_found(error)
        except GenerationError as error:
            return refused(error, request.get(MADE))
        except BROKEN_BODY:
            return refused(broken_body())
        except Exception:
            log.exception("the OpenAI-compatible API failed")
            fault = GenerationError(ErrorCode.INTERNAL_ERROR, "Darkroom failed; the log says why.")
            return refused(fault, request.get(MADE))

    return serve
