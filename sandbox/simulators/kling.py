"""Kling's wire format, at the vendor (JWT) and behind a relay (bearer key). Source: its API reference."""

from __future__ import annotations

import time
from typing import Any, Literal

import jwt
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.simulators.received import PictureRules
from sandbox.simulators.vendor import Vendor
from sandbox.simulators.webhooks import Webhook
from sandbox.simulators.world import SimulatedTask

_PRICES_USD = {("std", "5"): 0.14, ("std", "10"): 0.28, ("pro", "5"): 0.28, ("pro", "10"): 0.56}
_STATUS_OF = {400: 1200, 401: 1000, 403: 1103, 404: 1202, 429: 1302, 500: 5000, 503: 5001}


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_name: str = "kling-v1"
    prompt: str = Field(min_length=1, max_length=2_500)
    negative_prompt: str | None = Field(default=None, max_length=2_500)
    cfg_scale: float = Field(default=0.5, ge=0, le=1)
    mode: Literal["std", "pro"] = "std"
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    duration: Literal["5", "10"] = "5"
    callback_url: str | None = None
    external_task_id: str | None = None
    image: str | None = None
    image_tail: str | None = None


class Kling(Vendor):
    """The vendor itself."""

    name = "kling"
    image_rules = PictureRules(("JPEG", "PNG"), shortest_side=300, widest=2.5)

    def routes(self) -> list[web.RouteDef]:
        """What the vendor serves."""
        return [
            *super().routes(),
            web.post("/v1/videos/{kind:text2video|image2video}", self._submit),
            web.get("/v1/videos/{kind:text2video|image2video}", self._list),
            web.get("/v1/videos/{kind:text2video|image2video}/{task_id}", self._check),
        ]

    def error(self, status: int, text: str) -> web.Response:
        """The vendor's code, a text, and the id of the request."""
        body = {"code": _STATUS_OF.get(status, 5000), "message": text, "request_id": "simulated"}
        return web.json_response(body, status=status)

    def lets_in(self, request: web.Request) -> bool:
        """Whether the bearer token is a JWT of the account's, valid now."""
        try:
            claims = jwt.decode(
                request.headers.get("authorization", "").removeprefix("Bearer "),
                self.credentials["secret_key"],
                algorithms=["HS256"],
                options={"require": ["exp", "nbf", "iss"]},
            )
        except jwt.InvalidTokenError:
            return False
        return bool(claims["iss"] == self.credentials["access_key"])

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        if not self.lets_in(request):
            return self.error(401, "Authorization failed")
        try:
            asked = _Request.model_validate(await request.json())
        except (ValidationError, ValueError) as error:
            return self.error(400, f"Invalid request parameters: {error}"[:300])
        if (asked.image is None) == (request.match_info["kind"] == "image2video"):
            return self.error(400, "image is what image2video needs and text2video does not know")
        images = [image for image in (asked.image, asked.image_tail) if image is not None]
        taken = await self.take(
            request,
            model=asked.model_name,
            prompt=asked.prompt,
            body=asked.model_dump(exclude={"image", "image_tail"}),
            price_usd=_PRICES_USD[asked.mode, asked.duration],
            client_id=asked.external_task_id,
            webhook=asked.callback_url,
            images=images,
        )
        return self.answer(self.entry(request, taken)) if isinstance(taken, SimulatedTask) else taken

    async def _check(self, request: web.Request) -> web.StreamResponse:
        if not self.lets_in(request):
            return self.error(401, "Authorization failed")
        asked = request.match_info["task_id"]
        ours = self.world.task_of_client(self.name, asked)
        if ours is not None and time.time() - ours.created_at < ours.behaviour.lookup_delay_seconds:
            ours = None
        task = await self.look(request, ours.task_id if ours else asked)
        return self.answer(self.entry(request, task)) if isinstance(task, SimulatedTask) else task

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if not self.lets_in(request):
            return self.error(401, "Authorization failed")
        size = int(request.query.get("pageSize", "30"))
        start = (int(request.query.get("pageNum", "1")) - 1) * size
        tasks = self.world.tasks(self.name, limit=size, offset=start)
        return self.answer([self.entry(request, task) for task in tasks])

    def webhook(self, request: web.Request, task: SimulatedTask) -> Webhook:
        """The same JSON as a check, unsigned."""
        reply = self.answer(self.entry(request, task))
        return Webhook({}, reply.body if isinstance(reply.body, bytes) else b"")

    def answer(self, data: Any) -> web.Response:
        """A good reply."""
        return web.json_response({"code": 0, "message": "SUCCEED", "request_id": "simulated", "data": data})

    def entry(self, request: web.Request, task: SimulatedTask) -> dict[str, Any]:
        """A task as the vendor tells it."""
        share = self.share(task)
        entry: dict[str, Any] = {
            "task_id": task.task_id,
            "task_status": "submitted" if share < 0.2 else "processing",
            "task_info": {"external_task_id": task.request.get("external_task_id")},
            "created_at": int(task.created_at * 1_000),
            "updated_at": int(time.time() * 1_000),
        }
        if share < 1:
            return entry
        failure = task.failure
        if failure:
            return entry | {"task_status": "failed", "task_status_msg": f"The task has {failure}."}
        video = {
            "id": task.task_id,
            "url": self.file_url(request, task, 0, "mp4"),
            "duration": task.request["duration"],
        }
        return entry | {"task_status": "succeed", "task_result": {"videos": [video]}}


class KlingRelay(Kling):
    """A relay: a bearer key, other words, and fields one level elsewhere."""

    name = "kling-relay"

    def lets_in(self, request: web.Request) -> bool:
        """Whether the bearer token is the relay's key."""
        return request.headers.get("authorization") == f"Bearer {self.credentials['api_key']}"

    def entry(self, request: web.Request, task: SimulatedTask) -> dict[str, Any]:
        """A task as relays tell it."""
        found = super().entry(request, task)
        word = {"submitted": "NOT_START", "processing": "running", "succeed": "completed", "failed": "error"}
        return {"task_id": task.task_id, "status": word[found.pop("task_status")], "data": found}
