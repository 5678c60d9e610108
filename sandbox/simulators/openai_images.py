"""The wire format of OpenAI's image endpoint. Source: the Images section of OpenAI's API reference."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.simulators import pictures
from sandbox.simulators.behaviour import FaultKind
from sandbox.simulators.vendor import Kind, Vendor
from sandbox.simulators.world import SimulatedTask

_SIZES: dict[str, set[str]] = {
    "dall-e-3": {"1024x1024", "1792x1024", "1024x1792"},
    "gpt-image-1": {"1024x1024", "1536x1024", "1024x1536", "auto"},
    "gpt-image-1-mini": {"1024x1024", "1536x1024", "1024x1536", "auto"},
    "flux-pro": set(),
    "flux-dev": set(),
}
_PRICES_USD = {"dall-e-3": 0.04, "gpt-image-1": 0.042, "gpt-image-1-mini": 0.011, "flux-pro": 0.04, "flux-dev": 0.025}


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    prompt: str = Field(min_length=1, max_length=32_000)
    n: int = Field(default=1, ge=1, le=10)
    size: str = "1024x1024"
    quality: str | None = None
    style: Literal["vivid", "natural"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    background: str | None = None
    moderation: str | None = None
    user: str | None = None


def _error(
    status: int, text: str, code: str | None = None, kind: str = "invalid_request_error", param: str | None = None
) -> web.Response:
    if code is None and status == 429:
        kind, code = "requests", "rate_limit_exceeded"
    body = {"error": {"message": text, "type": kind if status < 500 else "server_error", "param": param, "code": code}}
    return web.json_response(body, status=status, headers={"x-request-id": f"req_{uuid.uuid4().hex}"})


class OpenAIImages(Vendor):
    """The vendor's routes."""

    name = "openai"
    file_seconds = 3_600

    def routes(self) -> list[web.RouteDef]:
        """What the vendor serves."""
        return [
            *super().routes(),
            web.post("/v1/images/generations", self._generate),
            web.post("/v1/images/edits", self._edit),
        ]

    def error(self, status: int, text: str) -> web.Response:
        """The vendor's error body."""
        return _error(status, text)

    def _lets_in(self, request: web.Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.credentials['api_key']}"

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return _error(401, "Incorrect API key provided.", code="invalid_api_key")
        try:
            asked = _Request.model_validate(await request.json())
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            return _error(400, f"{fault['msg']}", code="invalid_value", param=".".join(map(str, fault["loc"])))
        except ValueError:
            return _error(400, "We could not parse the JSON body of your request.")
        refusal = _refusal(asked)
        if refusal is not None:
            return refusal
        return await self._answer(request, asked)

    async def _edit(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return _error(401, "Incorrect API key provided.", code="invalid_api_key")
        form = await request.post()
        files = [form.getall(name) for name in ("image", "image[]") if name in form]
        given = [file for group in files for file in group if isinstance(file, web.FileField)]
        if not given:
            return _error(400, "image is required", code="missing_required_parameter", param="image")
        fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str)}
        try:
            asked = _Request.model_validate(fields | ({"n": int(fields["n"])} if "n" in fields else {}))
        except ValueError as error:
            return _error(400, f"{error}"[:300], code="invalid_value")
        images = [file.file.read() for file in given]
        return _refusal(asked) or await self._answer(request, asked, images)

    async def _answer(self, request: web.Request, asked: _Request, images: Sequence[bytes] = ()) -> web.StreamResponse:
        faults, chance = self.world.behaviour_for(asked.prompt).faults, self.world.chance(asked.prompt)
        if any(fault.kind is FaultKind.MODERATED and chance() < fault.probability for fault in faults):
            return _error(400, "Your request was rejected by the safety system.", code="content_policy_violation")
        taken = await self.take(
            request,
            model=asked.model,
            prompt=asked.prompt,
            body=asked.model_dump(),
            outputs=asked.n,
            price_usd=_PRICES_USD[asked.model] * asked.n,
            until_done=True,
            images=images,
        )
        if not isinstance(taken, SimulatedTask):
            return taken
        data = [await self._item(request, taken, asked, index) for index in range(asked.n)]
        body: dict[str, Any] = {"created": int(time.time()), "data": data}
        if asked.model.startswith("gpt-image"):
            body["usage"] = {"input_tokens": 50, "output_tokens": 1_056 * asked.n, "total_tokens": 50 + 1_056 * asked.n}
        return web.json_response(body, headers={"x-request-id": f"req_{taken.task_id}"})

    async def _item(self, request: web.Request, task: SimulatedTask, asked: _Request, index: int) -> dict[str, str]:
        extra = {"revised_prompt": asked.prompt} if asked.model == "dall-e-3" else {}
        if asked.model.startswith("gpt-image") or asked.response_format == "b64_json":
            content = await self.made(task, index, asked.output_format)
            return {"b64_json": base64.b64encode(content).decode(), **extra}
        return {"url": self.file_url(request, task, index, asked.output_format), **extra}

    async def draw(self, task: SimulatedTask, index: int, kind: Kind) -> bytes:
        """A picture of the size that was asked for."""
        asked = _Request.model_validate(task.request)
        width, height = (int(side) for side in ("1024x1024" if asked.size == "auto" else asked.size).split("x"))
        return await asyncio.to_thread(pictures.draw, asked.prompt, index, width, height, asked.output_format)


def _refusal(asked: _Request) -> web.Response | None:
    if asked.model not in _SIZES:
        return _error(400, f"The model '{asked.model}' does not exist.", code="model_not_found", param="model")
    sizes = _SIZES[asked.model]
    if sizes and asked.size not in sizes:
        return _error(
            400, f"The size '{asked.size}' is not supported by this model.", code="invalid_value", param="size"
        )
    if asked.model == "dall-e-3" and asked.n != 1:
        return _error(400, "You must provide n=1 for this model.", code="invalid_value", param="n")
    if asked.model.startswith("gpt-image") and asked.response_format is not None:
        return _error(400, "Unknown parameter: 'response_format'.", code="unknown_parameter", param="response_format")
    if asked.model.startswith("gpt-image") and asked.style is not None:
        return _error(400, "Unknown parameter: 'style'.", code="unknown_parameter", param="style")
    return None
