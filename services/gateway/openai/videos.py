"""/v1/videos: create, retrieve, download, delete. A video's id is its generation's."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest, NotFound
from services.gateway.holding import end_with_key
from services.gateway.openai.calls import Asking, Calls
from services.gateway.openai.errors import GENERATION_ID_HEADER, MADE
from services.gateway.openai.forms import Form
from services.gateway.openai.requests import AskedVideo, data_url, message_of, read
from services.gateway.rest.bodies import Bodies
from services.gateway.sending import Downloads

_STATUSES = {
    gateway_pb2.GENERATION_STATUS_PENDING: "queued",
    gateway_pb2.GENERATION_STATUS_PROCESSING: "in_progress",
    gateway_pb2.GENERATION_STATUS_SUCCESS: "completed",
    gateway_pb2.GENERATION_STATUS_FAILED: "failed",
    gateway_pb2.GENERATION_STATUS_CANCELLED: "failed",
}
_ENDED = {"completed", "failed"}
_VARIANT = "variant"


class Videos:
    """The routes.

    Args:
        calls: the caller's generations.
        bodies: reads what comes in.
        downloads: sends what goes out.
    """

    def __init__(self, calls: Calls, bodies: Bodies, downloads: Downloads) -> None:
        self._calls = calls
        self._bodies = bodies
        self._downloads = downloads

    async def create(self, request: web.Request) -> web.Response:
        """POST /v1/videos, as a form or as JSON."""
        asking = await self._calls.asking(request)
        form = await Form.read(request, self._bodies)
        pictures = form.files.pop("input_reference", [])
        if form.files:
            name = next(iter(form.files))
            raise InvalidRequest([FieldViolation(name, "unknown", "only input_reference may be a file")])
        urls = [data_url(content, "input_reference") for content in pictures]
        message = message_of(read(AskedVideo, form.values), self._calls.catalog.current, urls)
        generation_id = await self._calls.create(asking, message)
        request[MADE] = generation_id
        made = self._made(asking, generation_id)
        return await self._calls.answered(asking, message, generation_id, made)

    async def _made(self, asking: Asking, generation_id: str) -> web.Response:
        return _answer(await self._calls.get(asking, generation_id))

    async def retrieve(self, request: web.Request) -> web.Response:
        """GET /v1/videos/{id}."""
        asking = await self._calls.asking(request)
        return _answer(await self._calls.get(asking, request.match_info["id"]))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/videos/{id}/content: the file itself, through the gateway."""
        asking = await self._calls.asking(request, query={_VARIANT})
        if request.query.get(_VARIANT, "video") != "video":
            fault = "must be video: no thumbnails and spritesheets of videos are kept"
            raise InvalidRequest([FieldViolation(_VARIANT, "one_of", fault)])
        generation = await self._calls.get(asking, request.match_info["id"])
        if generation.status != gateway_pb2.GENERATION_STATUS_SUCCESS:
            status = _STATUSES.get(generation.status, "queued")
            raise NotFound("id", f"Video {generation.id} has no content: it is {status}.")
        files = await self._calls.files(asking, generation.id)
        if not files:
            # Kept where the provider keeps it.
            raise web.HTTPFound(generation.results[0].url)
        end_with_key(request, asking.caller)
        return await self._downloads.stored(request, files[0], {GENERATION_ID_HEADER: generation.id})

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /v1/videos/{id}: cancels what runs; what has ended is shown no more, and its files are removed."""
        asking, generation_id = await self._calls.asking(request), request.match_info["id"]
        if await self._has_ended(asking, generation_id):
            await self._calls.delete(asking, generation_id)
        return web.json_response({"id": generation_id, "object": "video.deleted", "deleted": True})

    async def _has_ended(self, asking: Asking, generation_id: str) -> bool:
        """Cancel a generation. Return whether it has ended, with this or before."""
        try:
            generation = await self._calls.cancel(asking, generation_id)
        except GenerationError as error:
            if error.code is ErrorCode.ALREADY_ENDED:
                return True
            raise
        return _STATUSES.get(generation.status) in _ENDED


def _answer(generation: gateway_pb2.Generation) -> web.Response:
    headers = {GENERATION_ID_HEADER: generation.id}
    return web.json_response(video_of(generation), headers=headers)


def video_of(generation: gateway_pb2.Generation) -> dict[str, Any]:
    """A generation as OpenAI describes a video."""
    status = _STATUSES.get(generation.status, "queued")
    parameters = generation.parameters.fields
    duration = parameters["duration"].number_value if "duration" in parameters else 0
    size = parameters["size_or_ratio"].string_value if "size_or_ratio" in parameters else ""
    failure = None
    if status == "failed":
        code = common_pb2.ErrorCode.Name(generation.error.code).removeprefix("ERROR_CODE_").lower()
        failure = {"code": code, "message": generation.error.message}
    return {
        "id": generation.id,
        "object": "video",
        "model": generation.model_identifier,
        "status": status,
        "progress": generation.progress,
        "created_at": generation.created_at.seconds,
        "completed_at": generation.ended_at.seconds if status == "completed" else None,
        "expires_at": None,
        "prompt": generation.prompt,
        "seconds": f"{duration:g}" if duration else "",
        "size": size,
        "remixed_from_video_id": None,
        "error": failure,
    }
