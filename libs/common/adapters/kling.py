"""Kling: videos from text and from images.

Source: the API reference at app.klingai.com/global/dev; what relays do beyond it was seen of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import jwt
from pydantic import Field

from libs.common.adapters.base import Adapter, ProviderOutput, SubmitRequest, Submitted, Task, TaskStatus, WebhookReport
from libs.common.adapters.http import Reply
from libs.common.adapters.reading import TaskHint, first, unwrapped, webhook_body
from libs.common.adapters.registry import adapter
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters
from libs.common.validation.video import NegativePrompt, WideTallOrSquare, ratio_of

_KINDS = ("text2video", "image2video")
_CODES = {
    **dict.fromkeys((*range(1000, 1005), 1103, 1304), ErrorCode.AUTHENTICATION_FAILED),
    **dict.fromkeys((1100, 1101, 1102), ErrorCode.QUOTA_EXCEEDED),
    **dict.fromkeys((1200, 1201, 1202, 1203), ErrorCode.INVALID_REQUEST),
    **dict.fromkeys((1300, 1301), ErrorCode.CONTENT_REJECTED),
    **dict.fromkeys((1302, 1303), ErrorCode.RATE_LIMITED),
    5000: ErrorCode.PROVIDER_ERROR,
    5001: ErrorCode.PROVIDER_UNAVAILABLE,
    5002: ErrorCode.PROVIDER_TIMEOUT,
}


# Source: image2video's table: jpg or png, 10 MB, sides from 300 pixels, ratios from 1:2.5 to 2.5:1.
_IMAGES = ImageNeeds(
    PreprocessConfig.fitting(2_560, quality=92, kind="base64"),
    formats=("jpeg", "png"),
    longest_side=4_096,
    shortest_side=300,
    widest=2.5,
    max_size_kb=10_000,
)


class KlingParameters(Parameters):
    """Source: the request tables of text2video and image2video."""

    size_or_ratio: WideTallOrSquare = "16:9"
    duration: Literal[5, 10] = Field(default=5, description="In seconds.")
    mode: Literal["standard", "pro"] = "pro"
    negative_prompt: NegativePrompt | None = None


@adapter("kling")
class Kling(Adapter):
    """The vendor's own API. A submit that was lost is found by our id, which the vendor keeps as `external_task_id`."""

    parameters = KlingParameters
    preprocess = _IMAGES
    credentials: ClassVar[tuple[str, ...]] = ("access_key", "secret_key")
    can_find_task, can_list, sends_webhooks, signs_webhooks = True, True, True, False
    states: ClassVar[Mapping[str, TaskState]] = {
        **dict.fromkeys(("submitted", "pending", "queued", "NOT_START"), TaskState.PENDING),
        **dict.fromkeys(("processing", "running"), TaskState.PROCESSING),
        **dict.fromkeys(("succeed", "succeeded", "success", "completed", "finished"), TaskState.SUCCESS),
        **dict.fromkeys(("failed", "error"), TaskState.FAILED),
    }

    @staticmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """A JWT signed with the secret key that lives half an hour; the same one for five minutes."""
        now = int(time.time()) // 300 * 300
        claims = {"iss": credentials["access_key"], "exp": now + 1_800, "nbf": now - 5}
        return {"authorization": f"Bearer {jwt.encode(claims, credentials['secret_key'], algorithm='HS256')}"}

    @staticmethod
    def refine(reply: Reply) -> ErrorCode | None:
        """The vendor's own codes, which also come with status 200."""
        code = reply.body.get("code") if isinstance(reply.body, dict) else None
        if not isinstance(code, int) or code in {0, 200}:
            return None
        return _CODES.get(code) or (None if reply.status >= 400 else ErrorCode.PROVIDER_ERROR)

    async def submit(self, request: SubmitRequest) -> Submitted:
        """POST /v1/videos/text2video or image2video."""
        kind = _KINDS[bool(request.input_images)]
        reply = await self.http.post(f"/v1/videos/{kind}", json=_payload(request))
        return replace(_submitted(kind, reply), reports=request.webhook_url is not None)

    async def check_task(self, task: Task) -> TaskStatus:
        """GET /v1/videos/{kind}/{id}."""
        reply = await self.http.get(task.check_url or f"/v1/videos/{_KINDS[0]}/{task.task_id}")
        return self._status(reply.body, reply)

    async def check_tasks(self, tasks: Sequence[Task]) -> dict[str, TaskStatus]:
        """GET the collections, a page of 500 each."""
        wanted = {task.task_id for task in tasks}
        found = {}
        for kind in _KINDS:
            reply = await self.http.get(f"/v1/videos/{kind}?pageNum=1&pageSize=500")
            listed = reply.body.get("data") if isinstance(reply.body, dict) else None
            for entry in listed if isinstance(listed, list) else ():
                if isinstance(entry, dict) and entry.get("task_id") in wanted:
                    found[str(entry["task_id"])] = self._status(entry, reply)
        return found

    async def find_task(self, client_id: str) -> Submitted | None:
        """GET by `external_task_id`; 404 proves that there is none."""
        for kind in _KINDS:
            try:
                return _submitted(kind, await self.http.get(f"/v1/videos/{kind}/{client_id}"))
            except GenerationError as error:
                if error.details.get("http_status") != 404:
                    raise
        return None

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """The same JSON as a check, unsigned: only a hint."""
        return WebhookReport(webhook_body(TaskHint, body).task_id)

    def _status(self, body: Any, reply: Reply) -> TaskStatus:
        word = first(body, "task_status", "status")
        if not isinstance(word, str):
            raise GenerationError(ErrorCode.PROVIDER_ERROR, "The task has no status.", reply.facts())
        state, unknown = self.status_of(word)
        if state is TaskState.FAILED:
            why = str(first(body, "task_status_msg", "message") or "no reason given")[:500]
            return TaskStatus(state, error=GenerationError(ErrorCode.TASK_FAILED, why, reply.facts()))
        outputs = tuple(ProviderOutput(url=url) for url in _urls(body)) if state is TaskState.SUCCESS else ()
        return TaskStatus(state, outputs, unknown_state=unknown)


def _payload(request: SubmitRequest) -> dict[str, Any]:
    parameters = request.parameters
    assert isinstance(parameters, KlingParameters)
    payload: dict[str, Any] = {
        "model_name": request.upstream_model,
        "prompt": request.prompt,
        "mode": {"standard": "std", "pro": "pro"}[parameters.mode],
        "duration": str(parameters.duration),
        "external_task_id": request.client_id,
        **parameters.model_dump(include={"negative_prompt"}, exclude_none=True),
        **({"callback_url": request.webhook_url} if request.webhook_url else {}),
    }
    images = dict(zip(("image", "image_tail"), (image.bare_base64 for image in request.input_images), strict=False))
    return payload | (images or {"aspect_ratio": ratio_of(parameters.size_or_ratio)})


def _submitted(kind: str, reply: Reply) -> Submitted:
    task_id = replace(reply, body=unwrapped(reply.body)).parse(TaskHint).task_id
    return Submitted(task_id, f"/v1/videos/{kind}/{task_id}")


def _urls(body: Any) -> list[str]:
    result = first(body, "task_result")
    videos = result.get("videos") if isinstance(result, dict) else None
    found = [video.get("url") for video in videos if isinstance(video, dict)] if isinstance(videos, list) else ()
    return [url for url in found or (first(body, "url", "video_url"),) if isinstance(url, str)]
