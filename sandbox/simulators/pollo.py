"""Pollo's wire format. Source: docs.pollo.ai."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.simulators.signing import standard_signature
from sandbox.simulators.vendor import Vendor
from sandbox.simulators.webhooks import Webhook
from sandbox.simulators.world import SimulatedTask

_CODES = {
    400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND", 429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_SERVER_ERROR", 503: "INTERNAL_SERVER_ERROR",
}  # fmt: skip


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=2_500)
    image: str | None = Field(default=None, pattern=r"^https?://")
    image_tail: str | None = Field(default=None, pattern=r"^https?://", alias="imageTail")
    resolution: Literal["480p", "720p", "1080p"] = "720p"
    length: int = Field(default=5, ge=1, le=30)
    aspect_ratio: str = Field(default="16:9", pattern=r"^\d+:\d+$", alias="aspectRatio")
    mode: Literal["basic", "pro"] | None = None
    seed: int | None = None
    negative_prompt: str | None = Field(default=None, alias="negativePrompt")
    generate_audio: bool = Field(default=True, alias="generateAudio")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    input: _Input
    webhook_url: str | None = Field(default=None, alias="webhookUrl")


class Pollo(Vendor):
    """The vendor's routes."""

    name = "pollo"

    def routes(self) -> list[web.RouteDef]:
        """What the vendor serves."""
        return [
            *super().routes(),
            web.get("/generation/{task_id}/status", self._check),
            web.post("/generation/{brand}/{model}", self._submit),
        ]

    def error(self, status: int, text: str) -> web.Response:
        """A word, a text, and the issues."""
        body = {"message": text, "code": _CODES.get(status, "INTERNAL_SERVER_ERROR"), "issues": [{"message": text}]}
        return web.json_response(body, status=status)

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("x-api-key") != self.credentials["api_key"]:
            return self.error(401, "Invalid API key")
        try:
            body = _Request.model_validate(await request.json())
            asked, webhook_url = body.input, body.webhook_url
        except (ValidationError, ValueError) as error:
            return self.error(400, f"Input validation failed: {error}"[:300])
        taken = await self.take(
            request,
            model=f"{request.match_info['brand']}/{request.match_info['model']}",
            prompt=asked.prompt,
            body=asked.model_dump(),
            price_usd=0.05 * asked.length,
            webhook=webhook_url,
            images=[url for url in (asked.image, asked.image_tail) if url is not None],
        )
        if not isinstance(taken, SimulatedTask):
            return taken
        return web.json_response({"taskId": taken.task_id, "status": "waiting"})

    async def _check(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("x-api-key") != self.credentials["api_key"]:
            return self.error(401, "Invalid API key")
        task = await self.look(request, request.match_info["task_id"])
        if not isinstance(task, SimulatedTask):
            return task
        # Some versions wrap their replies.
        return web.json_response({"code": "SUCCESS", "message": "success", "data": self._job(request, task)})

    def webhook(self, request: web.Request, task: SimulatedTask) -> Webhook:
        """The job, signed as Standard Webhooks are, under headers of the vendor's own."""
        body = json.dumps(self._job(request, task)).encode()
        return Webhook(standard_signature(body, self.credentials["webhook_secret"], prefix="x-"), body)

    def _job(self, request: web.Request, task: SimulatedTask) -> dict[str, Any]:
        return {"taskId": task.task_id, "generations": [self._generation(request, task)], "credit": 10}

    def _generation(self, request: web.Request, task: SimulatedTask) -> dict[str, Any]:
        share, failure = self.share(task), task.failure
        entry = {
            "id": f"{task.task_id}-0",
            "status": "waiting" if share < 0.2 else "processing" if share < 1 else "failed" if failure else "succeed",
            "failMsg": f"The generation has {failure}." if share == 1 and failure else None,
            "url": self.file_url(request, task, 0, "mp4") if share == 1 and not failure else None,
            "mediaType": "video",
        }
        return entry | {"createdDate": datetime.fromtimestamp(task.created_at, UTC).isoformat()}
