"""OpenAI's video jobs. Source: the Videos section of OpenAI's API reference."""

from __future__ import annotations

from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.simulators.received import PictureRules
from sandbox.simulators.vendor import Vendor
from sandbox.simulators.world import SimulatedTask

_PRICES_USD = {"sora-2": 0.10, "sora-2-pro": 0.30}


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Literal["sora-2", "sora-2-pro"] = "sora-2"
    prompt: str = Field(min_length=1, max_length=32_000)
    seconds: Literal["4", "8", "12"] = "4"
    size: Literal["720x1280", "1280x720", "1024x1792", "1792x1024"] = "720x1280"


class OpenAIVideos(Vendor):
    """The vendor's routes."""

    name = "openai-videos"

    def routes(self) -> list[web.RouteDef]:
        """What the vendor serves."""
        return [
            web.post("/v1/videos", self._submit),
            web.get("/v1/videos/{task_id}", self._check),
            web.get("/v1/videos/{task_id}/content", self._content),
            web.delete("/v1/videos/{task_id}", self._delete),
        ]

    def error(self, status: int, text: str) -> web.Response:
        """The vendor's error body."""
        kind, code = ("requests", "rate_limit_exceeded") if status == 429 else ("invalid_request_error", None)
        return web.json_response({"error": {"message": text, "type": kind, "param": None, "code": code}}, status=status)

    def _lets_in(self, request: web.Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.credentials['api_key']}"

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(401, "Incorrect API key provided.")
        pictures: list[bytes] = []
        try:
            if request.content_type == "application/json":
                fields = await request.json()
            else:
                form = await request.post()
                fields = {name: value for name, value in form.items() if isinstance(value, str)}
                pictures = [value.file.read() for value in form.values() if isinstance(value, web.FileField)]
            asked = _Request.model_validate(fields)
        except (ValidationError, ValueError) as error:
            return self.error(400, f"{error}"[:300])
        taken = await self.take(
            request,
            model=asked.model,
            prompt=asked.prompt,
            body=asked.model_dump(),
            price_usd=_PRICES_USD[asked.model] * int(asked.seconds),
            images=pictures,
            image_rules=PictureRules(size=_sides(asked.size)),
        )
        return web.json_response(self._entry(taken)) if isinstance(taken, SimulatedTask) else taken

    async def _check(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(401, "Incorrect API key provided.")
        task = await self.look(request, request.match_info["task_id"])
        return web.json_response(self._entry(task)) if isinstance(task, SimulatedTask) else task

    async def _content(self, request: web.Request) -> web.StreamResponse:
        task = self.world.task(self.name, request.match_info["task_id"])
        if not self._lets_in(request):
            return self.error(401, "Incorrect API key provided.")
        if task is None or self.share(task) < 1:
            return self.error(404, "The video is not ready.")
        return await self.serve(request, task, 0, "mp4")

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        task = self.world.task(self.name, request.match_info["task_id"])
        if not self._lets_in(request) or task is None:
            return self.error(404, "No such video.")
        # The vendor deletes a video, with its stored assets, only once it is completed or failed.
        if self.share(task) < 1:
            return self.error(400, "Only a completed or failed video can be deleted.")
        self.world.delete(task.task_id)
        return web.json_response({"id": task.task_id, "object": "video.deleted", "deleted": True})

    def _entry(self, task: SimulatedTask) -> dict[str, Any]:
        share, failure = self.share(task), task.failure
        ended = "failed" if failure else "completed"
        codes = {"moderated": "moderation_blocked", "failed": "generation_failed"}
        return {
            "id": task.task_id,
            "object": "video",
            "model": task.model,
            "status": "queued" if share < 0.2 else "in_progress" if share < 1 else ended,
            "progress": round(share * 100),
            "created_at": int(task.created_at),
            "expires_at": int(task.ready_at + 3_600),
            "completed_at": int(task.ready_at) if share == 1 else None,
            "prompt": task.prompt,
            "seconds": task.request["seconds"],
            "size": task.request["size"],
            "remixed_from_video_id": None,
            "error": {"code": codes[failure], "message": f"The video has {failure}."}
            if failure and share == 1
            else None,
        }


def _sides(size: str) -> tuple[int, int]:
    width, height = size.split("x")
    return int(width), int(height)
