"""Black Forest Labs' wire format. Source: the API reference at docs.bfl.ai."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
import uuid
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from sandbox.simulators import faults, pictures
from sandbox.simulators.behaviour import FaultKind
from sandbox.simulators.world import SimulatedTask, World

VENDOR = "bfl"
_PRICES_USD = {
    "flux-dev": 0.025,
    "flux-pro-1.1": 0.04,
    "flux-pro-1.1-ultra": 0.06,
    "flux-kontext-pro": 0.04,
    "flux-kontext-max": 0.08,
}
_SIGNING_KEY = b"simulated signature of result urls"


class _Request(BaseModel):
    prompt: str
    width: int = Field(default=1024, ge=256, le=1440, multiple_of=32)
    height: int = Field(default=768, ge=256, le=1440, multiple_of=32)
    aspect_ratio: str | None = Field(default=None, pattern=r"^\d+:\d+$")
    seed: int | None = None
    prompt_upsampling: bool = False
    safety_tolerance: int = Field(default=2, ge=0, le=6)
    output_format: Literal["jpeg", "png"] = "jpeg"


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"detail": text}, status=status)


class Bfl:
    """The vendor's routes.

    Args:
        world: what it remembers.
        key: the one key that it lets in.
    """

    def __init__(self, world: World, key: str) -> None:
        self._world = world
        self._key = key

    def routes(self) -> list[web.RouteDef]:
        """What the vendor serves."""
        return [
            web.get("/v1/get_result", self._check),
            web.post("/v1/{model}", self._submit),
            web.get("/results/{task_id}/{name}", self._result),
        ]

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("x-key") != self._key:
            return _error(403, "Not authenticated - Invalid Authentication")
        model = request.match_info["model"]
        if model not in _PRICES_USD:
            return _error(404, "Not Found")
        try:
            asked = _Request.model_validate(await request.json())
        except ValidationError as error:
            return web.json_response({"detail": error.errors(include_url=False, include_context=False)}, status=422)
        except ValueError:
            return _error(422, "The body is not JSON")
        return await self._accept(request, model, asked)

    async def _accept(self, request: web.Request, model: str, asked: _Request) -> web.StreamResponse:
        behaviour = self._world.behaviour_for(asked.prompt)
        if self._world.active(VENDOR) >= behaviour.active_tasks_limit:
            return _error(429, "Too many active tasks")
        struck = await faults.strike(request, behaviour, "submit", _error)
        if struck is not None:
            return struck
        task_id = str(uuid.uuid4())
        self._world.add_task(
            VENDOR, task_id=task_id, model=model, prompt=asked.prompt, request=asked.model_dump(), behaviour=behaviour
        )
        self._world.bill(
            VENDOR, task_id=task_id, model=model, prompt=asked.prompt, outputs=1, price_usd=_PRICES_USD[model]
        )
        await asyncio.sleep(behaviour.submit_seconds)
        struck = await faults.strike(request, behaviour, "submit", _error, after=True)
        if struck is not None:
            return struck
        polling_url = f"{_base(request)}/v1/get_result?id={task_id}"
        return web.json_response({"id": task_id, "polling_url": polling_url})

    async def _check(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("x-key") != self._key:
            return _error(403, "Not authenticated - Invalid Authentication")
        task_id = request.query.get("id", "")
        task = self._world.task(VENDOR, task_id)
        if task is None:
            return web.json_response(_body(task_id, "Task not found"), status=404)
        fault = task.behaviour.fault("check")
        self._world.save_behaviour(task)
        if fault is not None:
            return await faults.reply_with(fault, request, _error)
        return web.json_response(self._state(request, task))

    def _state(self, request: web.Request, task: SimulatedTask) -> dict[str, Any]:
        now = time.time()
        if now < task.ready_at:
            share = (now - task.created_at) / max(0.001, task.ready_at - task.created_at)
            status = "Pending" if share < 0.2 else "Processing"
            return _body(task.task_id, status, progress=round(share, 2))
        end = next((fault.kind for fault in task.behaviour.faults if fault.operation == "result"), None)
        if end is FaultKind.MODERATED:
            return _body(task.task_id, "Content Moderated", details={"Moderation Reasons": ["Derivative Works Filter"]})
        if end is FaultKind.FAILED:
            return _body(task.task_id, "Error", details={"error": "generation failed"})
        expires = int(now + task.behaviour.result_seconds)
        kind = task.request["output_format"]
        path = f"/results/{task.task_id}/sample.{kind}"
        result = {
            "sample": f"{_base(request)}{path}?se={expires}&sig={_signature(path, expires)}",
            "prompt": task.prompt,
            "seed": task.request["seed"] or 42,
            "start_time": task.created_at,
            "end_time": task.ready_at,
            "duration": task.ready_at - task.created_at,
        }
        return _body(task.task_id, "Ready", result=result)

    async def _result(self, request: web.Request) -> web.StreamResponse:
        task_id, name = request.match_info["task_id"], request.match_info["name"]
        path, expires = f"/results/{task_id}/{name}", request.query.get("se", "0")
        task = self._world.task(VENDOR, task_id)
        signed = hmac.compare_digest(request.query.get("sig", ""), _signature(path, int(expires or 0)))
        if task is None or not signed or int(expires) < time.time():
            return web.Response(
                status=403, text="<Error><Code>AuthenticationFailed</Code></Error>", content_type="text/xml"
            )
        fault = task.behaviour.fault("result")
        self._world.save_behaviour(task)
        if fault is not None:
            return await faults.reply_with(fault, request, _error)
        asked = _Request.model_validate(task.request)
        content = await asyncio.to_thread(
            pictures.draw, asked.prompt, asked.seed or 42, *_size(asked), asked.output_format
        )
        return web.Response(body=content, content_type=f"image/{asked.output_format}")


def _body(task_id: str, status: str, **more: Any) -> dict[str, Any]:
    return {"id": task_id, "status": status, "result": None, "progress": None, "details": None, **more}


def _size(asked: _Request) -> tuple[int, int]:
    if asked.aspect_ratio is None:
        return asked.width, asked.height
    across, down = (int(part) for part in asked.aspect_ratio.split(":"))
    return round((1024**2 * across / down) ** 0.5), round((1024**2 * down / across) ** 0.5)


def _base(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}/{VENDOR}"


def _signature(path: str, expires: int) -> str:
    return hmac.new(_SIGNING_KEY, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
