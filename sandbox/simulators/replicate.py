"""Replicate's wire format. Source: replicate.com/docs/reference/http."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from sandbox.simulators.signing import standard_signature
from sandbox.simulators.vendor import Kind, Vendor
from sandbox.simulators.webhooks import Webhook
from sandbox.simulators.world import SimulatedTask

_PAGE = 100
_VIDEO_WORDS = ("video", "kling", "wan", "veo")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    input: dict[str, Any]
    version: str | None = None
    webhook: str | None = None
    webhook_events_filter: list[str] | None = None
    stream: bool | None = None


class Replicate(Vendor):
    """The vendor's routes."""

    name = "replicate"

    def routes(self) -> list[web.RouteDef]:
        """What the vendor serves."""
        return [
            *super().routes(),
            web.post("/v1/models/{owner}/{name}/predictions", self._submit),
            web.post("/v1/predictions", self._submit),
            web.get("/v1/predictions", self._list),
            web.get("/v1/predictions/{task_id}", self._check),
            web.post("/v1/predictions/{task_id}/cancel", self._cancel),
        ]

    def error(self, status: int, text: str) -> web.Response:
        """A problem document."""
        return web.json_response({"title": text, "detail": text, "status": status}, status=status)

    def webhook(self, request: web.Request, task: SimulatedTask) -> Webhook:
        """The prediction, signed as Standard Webhooks are."""
        body = json.dumps(self._entry(request, task)).encode()
        return Webhook(standard_signature(body, self.credentials["webhook_secret"], version="v1,"), body)

    def _lets_in(self, request: web.Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.credentials['api_key']}"

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(401, "Unauthenticated")
        try:
            asked = _Request.model_validate(await request.json())
        except (ValidationError, ValueError) as error:
            return self.error(422, f"Invalid input: {error}"[:300])
        owner = request.match_info.get("owner")
        model = f"{owner}/{request.match_info['name']}" if owner else asked.version or ""
        prompt = asked.input.get("prompt")
        if not model or not isinstance(prompt, str) or not prompt:
            return self.error(422, "- input: prompt is required")
        taken = await self.take(
            request,
            model=model,
            prompt=prompt,
            body={"input": {key: value for key, value in asked.input.items() if key != "image"}},
            outputs=int(asked.input.get("num_outputs", 1)),
            price_usd=0.003 * int(asked.input.get("num_outputs", 1)),
            webhook=asked.webhook,
            images=[asked.input["image"]] if "image" in asked.input else [],
        )
        return web.json_response(self._entry(request, taken), status=201) if isinstance(taken, SimulatedTask) else taken

    async def _check(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(401, "Unauthenticated")
        task = await self.look(request, request.match_info["task_id"])
        return web.json_response(self._entry(request, task)) if isinstance(task, SimulatedTask) else task

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(401, "Unauthenticated")
        tasks = self.world.tasks(self.name, limit=_PAGE)[:100]
        results = [self._entry(request, task) for task in tasks]
        return web.json_response({"previous": None, "next": None, "results": results})

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(401, "Unauthenticated")
        task = self.world.task(self.name, request.match_info["task_id"])
        if task is None:
            return self.error(404, "Not found.")
        self.world.cancel(task.task_id)
        return web.json_response(self._entry(request, self.world.task(self.name, task.task_id) or task))

    def _entry(self, request: web.Request, task: SimulatedTask) -> dict[str, Any]:
        share, failure = self.share(task), task.failure
        status = "starting" if share < 0.2 else "processing"
        if task.cancelled:
            status = "canceled"
        elif share == 1:
            status = "failed" if failure else "succeeded"
        kind: Kind = "mp4" if any(word in task.model for word in _VIDEO_WORDS) else "png"
        count = int(task.request["input"].get("num_outputs", 1))
        urls = [self.file_url(request, task, index, kind) for index in range(count)]
        base = f"{self.base(request)}/v1/predictions/{task.task_id}"
        created = datetime.fromtimestamp(task.created_at, UTC).isoformat()
        return {
            "id": task.task_id,
            "model": task.model,
            "version": "simulated",
            "input": task.request["input"],
            "output": (urls[0] if kind == "mp4" else urls) if status == "succeeded" else None,
            "logs": f"step\n{round(share * 100)}%|###|",
            "error": {"moderated": "NSFW content detected", "failed": "generation failed"}[failure or "failed"]
            if status == "failed"
            else None,
            "status": status,
            "created_at": created,
            "started_at": created,
            "completed_at": created if share == 1 else None,
            "data_removed": False,
            "metrics": {"predict_time": 1.0},
            "urls": {"get": base, "cancel": f"{base}/cancel"},
        }
