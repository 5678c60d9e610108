"""Replicate: predictions by a model's name or by a version. Source: replicate.com/docs/reference/http.

Outputs are removed after an hour, so they are fetched at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field
from yarl import URL

from libs.common.adapters.base import Adapter, ProviderOutput, SubmitRequest, Submitted, Task, TaskStatus, WebhookReport
from libs.common.adapters.http import Reply
from libs.common.adapters.identity import describes_other_task
from libs.common.adapters.registry import adapter
from libs.common.adapters.searching import Found, every_url, objects_in, task_in, text_in
from libs.common.adapters.signatures import standard_webhook
from libs.common.adapters.tasks import status_in, statuses_in, submitted, webhook_report
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters
from libs.common.validation.image import Seed

_REJECTED = re.compile(r"NSFW|flagged|E005", re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3})%")
# Whatever the model makes or was sent.
_PAYLOADS = frozenset({"output", "input"})
_API_HOST = "api.replicate.com"


# Data URLs are for files of a few hundred kilobytes at most; a URL does for all.
_IMAGES = ImageNeeds(
    PreprocessConfig.fitting(2_048, quality=92, kind="url"),
    formats=("jpeg", "png", "webp"),
    longest_side=4_096,
    max_size_kb=20_000,
)


class ReplicateParameters(Parameters):
    """What most models on Replicate understand; which of them a model takes is its own business."""

    aspect_ratio: Literal["16:9", "9:16", "1:1"] | None = None
    duration: int | None = Field(default=None, ge=1, le=60, description="In seconds, for videos.")
    seed: Seed | None = None


@adapter("replicate")
class Replicate(Adapter):
    """A submit has no id of ours and cannot be repeated safely."""

    parameters = ReplicateParameters
    preprocess = _IMAGES
    can_list = can_cancel = sends_webhooks = True
    # An output may be a data URL.
    reply_limit_bytes = 16 * 1024**2
    task_id_names = ("id",)
    states: ClassVar[Mapping[str, TaskState]] = {
        "starting": TaskState.PENDING,
        "processing": TaskState.PROCESSING,
        "succeeded": TaskState.SUCCESS,
        "failed": TaskState.FAILED,
        "canceled": TaskState.CANCELLED,
        "aborted": TaskState.CANCELLED,
    }

    @staticmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """Source: authentication."""
        return {"authorization": f"Bearer {credentials['api_key']}"}

    async def submit(self, request: SubmitRequest) -> Submitted:
        """POST /v1/models/{owner}/{name}/predictions, or /v1/predictions for `owner/name:version` and `version`."""
        name, _, version = request.upstream_model.partition(":")
        if not version and "/" not in name:
            version = name
        path = "/v1/predictions" if version else f"/v1/models/{name}/predictions"
        payload: dict[str, Any] = {"input": _input(request)} | ({"version": version} if version else {})
        if request.webhook_url:
            payload |= {"webhook": request.webhook_url, "webhook_events_filter": ["completed"]}
        reply = await self.http.post(path, json=payload)
        return submitted(reply, *self.task_id_names, reports=request.webhook_url is not None)

    async def check_task(self, task: Task) -> TaskStatus:
        """GET /v1/predictions/{id}."""
        reply = await self.http.get(f"/v1/predictions/{task.task_id}", about=task.task_id)
        return self._status(reply, task.task_id)

    async def check_tasks(self, tasks: Sequence[Task]) -> dict[str, TaskStatus]:
        """GET /v1/predictions: the hundred newest."""
        wanted = {task.task_id for task in tasks}
        reply = await self.http.get("/v1/predictions")
        return statuses_in(reply, objects_in(reply.body, "results"), "id", wanted, self._status)

    async def cancel(self, task: Task) -> bool:
        """POST /v1/predictions/{id}/cancel, which answers where the prediction stands then."""
        reply = await self.http.cancel("POST", f"/v1/predictions/{task.task_id}/cancel")
        found = task_in(reply.body, self.states, task.task_id, payloads=_PAYLOADS)
        if found is None or describes_other_task(reply.body, found.innermost, task.task_id):
            return False
        return found.state is TaskState.CANCELLED

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """A prediction, signed as Standard Webhooks are."""
        standard_webhook(headers, body, secret=secret, now=now)
        return webhook_report(body, "id", read=self._status)

    def _status(self, reply: Reply, task_id: str) -> TaskStatus:
        status = status_in(reply, self.states, task_id, outputs=_outputs, payloads=_PAYLOADS)
        return _refined(status, text_in(reply.body, "logs"))


def _input(request: SubmitRequest) -> dict[str, Any]:
    payload = request.parameters.model_dump(exclude_none=True) | {"prompt": request.prompt}
    if request.number_of_outputs > 1:
        payload["num_outputs"] = request.number_of_outputs
    return payload | ({"image": request.input_images[0].url} if request.input_images else {})


def _refined(status: TaskStatus, logs: str | None) -> TaskStatus:
    """The status with what this vendor says only in texts: moderation in the error, the progress in the logs."""
    if status.error is not None and _REJECTED.search(status.error.message):
        error = GenerationError(ErrorCode.CONTENT_REJECTED, status.error.message, status.error.details)
        return replace(status, error=error)
    percents = _PERCENT.findall((logs or "")[-2_000:])
    return replace(status, progress=min(100, int(percents[-1]))) if percents and not status.state.has_ended else status


def _outputs(found: Found) -> list[ProviderOutput]:
    """A URL, or lists and objects that hold them at any depth."""
    urls = every_url(found.node.get("output"))
    return [ProviderOutput(url=url, needs_credentials=_host(url) == _API_HOST) for url in urls]


def _host(url: str) -> str | None:
    try:
        return None if url.startswith("data:") else URL(url).host
    except ValueError:
        return None
