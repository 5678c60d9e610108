"""Black Forest Labs' wire format. Source: the API reference at docs.bfl.ai."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from sandbox.simulators import pictures
from sandbox.simulators.vendor import Kind, Vendor
from sandbox.simulators.webhooks import Webhook
from sandbox.simulators.world import SimulatedTask

_PRICES_USD = {
    "flux-dev": 0.025,
    "flux-pro-1.1": 0.04,
    "flux-pro-1.1-ultra": 0.06,
    "flux-kontext-pro": 0.04,
    "flux-kontext-max": 0.08,
}
_SEED = 42


class _Request(BaseModel):
    prompt: str
    width: int = Field(default=1024, ge=256, le=1440, multiple_of=32)
    height: int = Field(default=768, ge=256, le=1440, multiple_of=32)
    aspect_ratio: str | None = Field(default=None, pattern=r"^\d+:\d+$")
    seed: int | None = None
    prompt_upsampling: bool = False
    safety_tolerance: int = Field(default=2, ge=0, le=6)
    output_format: Literal["jpeg", "png"] = "jpeg"
    image_prompt: str | None = None
    input_image: str | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = None


class Bfl(Vendor):
    """The vendor's routes."""

    name = "bfl"
    files = "/results/{task_id}/{index}/sample.{kind}"

    def routes(self) -> list[web.RouteDef]:
        """What the vendor serves."""
        return [
            *super().routes(),
            web.get("/v1/get_result", self._check),
            web.post("/v1/{model}", self._submit),
        ]

    def error(self, status: int, text: str) -> web.Response:
        """A detail."""
        return web.json_response({"detail": text}, status=status)

    def _lets_in(self, request: web.Request) -> bool:
        return request.headers.get("x-key") == self.credentials["api_key"]

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(403, "Not authenticated - Invalid Authentication")
        model = request.match_info["model"]
        if model not in _PRICES_USD:
            return self.error(404, "Not Found")
        try:
            asked = _Request.model_validate(await request.json())
        except ValidationError as error:
            return web.json_response({"detail": error.errors(include_url=False, include_context=False)}, status=422)
        except ValueError:
            return self.error(422, "The body is not JSON")
        return await self._accept(request, model, asked)

    async def _accept(self, request: web.Request, model: str, asked: _Request) -> web.StreamResponse:
        if self.world.active(self.name) >= self.world.behaviour_for(asked.prompt).active_tasks_limit:
            return self.error(429, "Too many active tasks")
        taken = await self.take(
            request,
            model=model,
            prompt=asked.prompt,
            body=asked.model_dump(exclude={"image_prompt", "input_image"}),
            price_usd=_PRICES_USD[model],
            webhook=asked.webhook_url,
            images=[image for image in (asked.image_prompt, asked.input_image) if image is not None],
        )
        if not isinstance(taken, SimulatedTask):
            return taken
        polling_url = f"{self.base(request)}/v1/get_result?id={taken.task_id}"
        return web.json_response({"id": taken.task_id, "polling_url": polling_url})

    async def _check(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(403, "Not authenticated - Invalid Authentication")
        task_id = request.query.get("id", "")
        if self.world.task(self.name, task_id) is None:
            return web.json_response(_body(task_id, "Task not found"), status=404)
        task = await self.look(request, task_id)
        return web.json_response(self._state(request, task)) if isinstance(task, SimulatedTask) else task

    def _state(self, request: web.Request, task: SimulatedTask) -> dict[str, Any]:
        share, failure = self.share(task), task.failure
        if share < 1:
            return _body(task.task_id, "Pending" if share < 0.2 else "Processing", progress=round(share, 2))
        if failure == "moderated":
            return _body(task.task_id, "Content Moderated", details={"Moderation Reasons": ["Derivative Works Filter"]})
        if failure:
            return _body(task.task_id, "Error", details={"error": "generation failed"})
        result = {
            "sample": self.file_url(request, task, 0, task.request["output_format"]),
            "prompt": task.prompt,
            "seed": task.request["seed"] or _SEED,
            "start_time": task.created_at,
            "end_time": task.ready_at,
            "duration": task.ready_at - task.created_at,
        }
        return _body(task.task_id, "Ready", result=result)

    def webhook(self, request: web.Request, task: SimulatedTask) -> Webhook:
        """The state, signed with the secret that the request brought."""
        body = json.dumps({**self._state(request, task), "task_id": task.task_id}).encode()
        secret = (task.request["webhook_secret"] or "").encode()
        return Webhook({"x-bfl-signature": hmac.new(secret, body, hashlib.sha256).hexdigest()}, body)

    async def draw(self, task: SimulatedTask, index: int, kind: Kind) -> bytes:
        """A picture of the size that was asked for."""
        asked = _Request.model_validate(task.request)
        return await asyncio.to_thread(
            pictures.draw, asked.prompt, asked.seed or _SEED, *_size(asked), asked.output_format
        )


def _body(task_id: str, status: str, **more: Any) -> dict[str, Any]:
    return {"id": task_id, "status": status, "result": None, "progress": None, "details": None, **more}


def _size(asked: _Request) -> tuple[int, int]:
    if asked.aspect_ratio is None:
        return asked.width, asked.height
    across, down = (int(part) for part in asked.aspect_ratio.split(":"))
    return round((1024**2 * across / down) ** 0.5), round((1024**2 * down / across) ** 0.5)
