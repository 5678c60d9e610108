"""POST /v1/images/generations and /v1/images/edits: asks, waits up to a bound, answers with the pictures."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from aiohttp import web
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.common.errors import ErrorCode, FieldViolation, InvalidRequest
from services.gateway.openai.calls import Asking, Calls
from services.gateway.openai.errors import GENERATION_ID_HEADER, MADE, failed, still_running
from services.gateway.openai.forms import Form
from services.gateway.openai.requests import AskedImages, data_url, message_of, read
from services.gateway.rest.bodies import Bodies


class Images:
    """The two routes.

    Args:
        calls: the caller's generations.
        bodies: reads requests.
        wait_seconds: how long an answer waits for the pictures.
    """

    def __init__(self, calls: Calls, bodies: Bodies, *, wait_seconds: float) -> None:
        self._calls = calls
        self._bodies = bodies
        self._wait_seconds = wait_seconds

    async def generate(self, request: web.Request) -> web.Response:
        """POST /v1/images/generations."""
        asking = await self._calls.asking(request)
        form = Form.of_json(await self._bodies.read_json(request))
        return await self._make(request, asking, read(AskedImages, form.values), [])

    async def edit(self, request: web.Request) -> web.Response:
        """POST /v1/images/edits: a form with pictures."""
        asking = await self._calls.asking(request)
        form = await Form.read(request, self._bodies)
        pictures = form.files.pop("image", []) + form.files.pop("image[]", [])
        if not pictures:
            raise InvalidRequest([FieldViolation("image", "required", "at least one picture is needed")])
        if form.files:
            name = next(iter(form.files))
            raise InvalidRequest([FieldViolation(name, "unknown", "no model of the catalog takes such a file")])
        urls = [data_url(content, "image") for content in pictures]
        return await self._make(request, asking, read(AskedImages, form.values), urls)

    async def _make(
        self, request: web.Request, asking: Asking, asked: AskedImages, pictures: list[str]
    ) -> web.Response:
        message = message_of(asked, self._calls.catalog.current, pictures)
        generation_id = await self._calls.create(asking, message)
        request[MADE] = generation_id
        made = self._made(asking, generation_id, asked.response_format)
        return await self._calls.answered(asking, message, generation_id, made)

    async def _made(self, asking: Asking, generation_id: str, response_format: str | None) -> web.Response:
        generation = await self._calls.ended(asking, generation_id, within=self._wait_seconds)
        if generation is None:
            return still_running(generation_id, self._wait_seconds)
        if generation.status != gateway_pb2.GENERATION_STATUS_SUCCESS:
            word = common_pb2.ErrorCode.Name(generation.error.code).removeprefix("ERROR_CODE_")
            return failed(generation_id, ErrorCode(word), generation.error.message)
        return await self._answer(asking, generation, response_format)

    async def _answer(
        self, asking: Asking, generation: gateway_pb2.Generation, response_format: str | None
    ) -> web.Response:
        """Both a URL and the bytes where the caller did not choose: models of OpenAI's differ in what they answer.

        The images exist: where bytes were asked for and a fallback's provider keeps the files, their URLs are answered.
        """
        data: list[dict[str, Any]] = [{} for _ in generation.results]
        files = [] if response_format == "url" else await self._calls.files(asking, generation.id)
        if response_format == "b64_json" and len(files) < len(data):
            response_format = "url"
        if response_format != "b64_json":
            for item, output in zip(data, generation.results, strict=True):
                item["url"] = output.url
        if response_format != "url" and len(files) == len(data):
            contents = await asyncio.gather(*(self._calls.read(file.key) for file in files))
            for item, content in zip(data, contents, strict=True):
                item["b64_json"] = base64.b64encode(content).decode()
        created = int(generation.created_at.seconds)
        headers = {GENERATION_ID_HEADER: generation.id}
        return web.json_response({"created": created, "data": data}, headers=headers)
