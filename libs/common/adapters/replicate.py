"""Replicate: predictions by a model's name or by a version. Source: replicate.com/docs/reference/http.

Outputs are removed after an hour, so they are fetched at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field
from yarl import URL

from libs.common.adapters.base import Adapter, ProviderOutput, SubmitRequest, Submitted, Task, TaskStatus, WebhookReport
from libs.common.adapters.reading import TaskId, webhook_body
from libs.common.adapters.registry import adapter
from libs.common.adapters.signatures import standard_webhook
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters
from libs.common.validation.image import Seed

_REJECTED = re.compile(r"NSFW|flagged|E005", re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3})%")
_OUTPUTS_LIMIT = 100
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


class _Prediction(BaseModel):
    id: TaskId
    status: str
    output: Any = None
    error: Any = None
    logs: str | None = None


class _Page(BaseModel):
    results: list[_Prediction]


@adapter("replicate")
class Replicate(Adapter):
    """A submit has no id of ours and cannot be repeated safely."""

    parameters = ReplicateParameters
    preprocess = _IMAGES
    can_list = can_cancel = sends_webhooks = True
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
        return Submitted(reply.parse(_Prediction).id, reports=request.webhook_url is not None)

    async def check_task(self, task: Task) -> TaskStatus:
        """GET /v1/predictions/{id}."""
        return self._status((await self.http.get(f"/v1/predictions/{task.task_id}")).parse(_Prediction))

    async def check_tasks(self, tasks: Sequence[Task]) -> dict[str, TaskStatus]:
        """GET /v1/predictions: the hundred newest."""
        wanted = {task.task_id for task in tasks}
        page = (await self.http.get("/v1/predictions")).parse(_Page)
        return {found.id: self._status(found) for found in page.results if found.id in wanted}

    async def cancel(self, task: Task) -> None:
        """POST /v1/predictions/{id}/cancel."""
        await self.http.cancel("POST", f"/v1/predictions/{task.task_id}/cancel")

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """A prediction, signed as Standard Webhooks are."""
        standard_webhook(headers, body, secret=secret, now=now)
        found = webhook_body(_Prediction, body)
        return WebhookReport(found.id, self._status(found))

    def _status(self, found: _Prediction) -> TaskStatus:
        state, unknown = self.status_of(found.status)
        if state is TaskState.FAILED:
            why = str(found.error or "no reason given")[:500]
            code = ErrorCode.CONTENT_REJECTED if _REJECTED.search(why) else ErrorCode.TASK_FAILED
            return TaskStatus(state, error=GenerationError(code, why))
        percents = _PERCENT.findall((found.logs or "")[-2_000:])
        progress = min(100, int(percents[-1])) if percents and not state.has_ended else None
        outputs = tuple(_outputs(found.output)) if state is TaskState.SUCCESS else ()
        return TaskStatus(state, outputs[:_OUTPUTS_LIMIT], progress=progress, unknown_state=unknown)


def _input(request: SubmitRequest) -> dict[str, Any]:
    payload = request.parameters.model_dump(exclude_none=True) | {"prompt": request.prompt}
    if request.number_of_outputs > 1:
        payload["num_outputs"] = request.number_of_outputs
    return payload | ({"image": request.input_images[0].url} if request.input_images else {})


def _outputs(output: Any) -> Iterator[ProviderOutput]:
    """A URL, a list of them, or an object that has them as values."""
    entries = output if isinstance(output, list) else list(output.values()) if isinstance(output, dict) else [output]
    for entry in entries:
        if isinstance(entry, str) and entry.startswith(("http://", "https://")):
            try:
                yield ProviderOutput(url=entry, needs_credentials=URL(entry).host == _API_HOST)
            except ValueError as error:
                raise GenerationError(
                    ErrorCode.PROVIDER_ERROR, "The provider names an output that is no URL."
                ) from error
