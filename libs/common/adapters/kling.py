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

from libs.common.adapters.base import Adapter, SubmitRequest, Submitted, Task, TaskStatus, WebhookReport
from libs.common.adapters.finding import task_of_client
from libs.common.adapters.http import Reply
from libs.common.adapters.reading import TaskHint, webhook_body
from libs.common.adapters.registry import adapter
from libs.common.adapters.replies import is_missing_task
from libs.common.adapters.searching import objects_in
from libs.common.adapters.tasks import moderated, status_in, statuses_in, submitted
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
_NOT_FOUND_STATUS = frozenset({404})
_NOT_FOUND_CODES = (1202, 1203)


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
        "submitted": TaskState.PENDING,
        "processing": TaskState.PROCESSING,
        "succeed": TaskState.SUCCESS,
        "failed": TaskState.FAILED,
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
        return _submitted(kind, reply, reports=request.webhook_url is not None)

    async def check_task(self, task: Task) -> TaskStatus:
        """GET /v1/videos/{kind}/{id}."""
        try:
            url = task.check_url or _check_url(_KINDS[0], task.task_id)
            reply = await self.http.get(url, about=task.task_id)
        except GenerationError as error:
            return moderated(error)
        return self._status(reply, task.task_id)

    async def check_tasks(self, tasks: Sequence[Task]) -> dict[str, TaskStatus]:
        """GET the collections, a page of 500 each."""
        wanted = {task.task_id for task in tasks}
        found: dict[str, TaskStatus] = {}
        for kind in _KINDS:
            reply = await self.http.get(f"/v1/videos/{kind}?pageNum=1&pageSize=500")
            found |= statuses_in(reply, objects_in(reply.body, "data"), "task_id", wanted, self._status)
        return found

    async def find_task(self, client_id: str) -> Submitted | None:
        """GET by `external_task_id`. The vendor does not document that a task is found at once: 404 proves nothing."""
        for kind in _KINDS:
            try:
                reply = await self.http.get(f"/v1/videos/{kind}/{client_id}", answers=_NOT_FOUND_STATUS)
            except GenerationError as error:
                # The words of the vendor's error, whatever its status.
                if error.details.get("http_status") != 404:
                    raise
                continue
            if reply.status not in _NOT_FOUND_STATUS:
                task_id = task_of_client(reply, client_id)
                return Submitted(task_id, _check_url(kind, task_id))
            if not _is_not_found(reply):
                raise reply.unreadable("a 404 that is not the vendor's own")
        return None

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """The same JSON as a check, unsigned: only a hint."""
        return WebhookReport(webhook_body(TaskHint, body).task_id)

    def _status(self, reply: Reply, task_id: str) -> TaskStatus:
        return status_in(reply, self.states, task_id, repeats_id=self.repeats_task_id)


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


def _submitted(kind: str, reply: Reply, *, reports: bool = False) -> Submitted:
    accepted = submitted(reply, reports=reports)
    return replace(accepted, check_url=_check_url(kind, accepted.task_id))


def _check_url(kind: str, task_id: str) -> str:
    return f"/v1/videos/{kind}/{task_id}"


def _is_not_found(reply: Reply) -> bool:
    """Whether a 404 is the vendor's own word that it has no such task, and not that of a proxy before it."""
    code = reply.body.get("code") if isinstance(reply.body, dict) else None
    return code in _NOT_FOUND_CODES or is_missing_task(reply.body)
