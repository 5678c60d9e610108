"""Pollo: many brands' video models behind one API. Source: docs.pollo.ai."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from libs.common.adapters.base import Adapter, SubmitRequest, Submitted, Task, TaskStatus, WebhookReport
from libs.common.adapters.http import Reply
from libs.common.adapters.identity import describes_other_task
from libs.common.adapters.registry import adapter
from libs.common.adapters.searching import lists_in, paths_in, reason_in, task_in
from libs.common.adapters.signatures import standard_webhook
from libs.common.adapters.tasks import failure, named_outputs, outputs_at, status_in, submitted, webhook_report
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode
from libs.common.imaging.config import Compression, Output, PreprocessConfig, Resize
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters
from libs.common.validation.image import Seed, SizeOrRatio
from libs.common.validation.video import NegativePrompt, ratio_of

_CODES = {
    "BAD_REQUEST": ErrorCode.INVALID_REQUEST,
    "UNAUTHORIZED": ErrorCode.AUTHENTICATION_FAILED,
    "NOT_FOUND": ErrorCode.INVALID_REQUEST,
    "TOO_MANY_REQUESTS": ErrorCode.RATE_LIMITED,
    "INTERNAL_SERVER_ERROR": ErrorCode.PROVIDER_ERROR,
}


_OPTIMIZED = PreprocessConfig(
    format="jpeg",
    resize=Resize(mode="cover", width=1_920, height=1_080),
    compression=Compression(quality=90, max_size_kb=5_000),
    output=Output(kind="url"),
)
_LONG_SIDE, _SHORT_SIDE = 1_920, 1_080


class PolloParameters(Parameters):
    """Source: the input tables of the generation routes."""

    model_config = ConfigDict(populate_by_name=True)

    size_or_ratio: SizeOrRatio = "16:9"
    duration: int = Field(default=8, ge=1, le=30, description="In seconds.")
    resolution: Literal["480p", "720p", "1080p"] = "720p"
    mode: Literal["basic", "pro"] | None = None
    generate_audio: bool = Field(default=True, alias="generateAudio", description="Make sound, too.")
    negative_prompt: NegativePrompt | None = None
    seed: Seed | None = None


@adapter("pollo")
class Pollo(Adapter):
    """One task has several generations; it has ended when all of them have, and what succeeded is kept."""

    parameters = PolloParameters
    preprocess = ImageNeeds(_OPTIMIZED, formats=("jpeg", "png", "webp"), longest_side=_LONG_SIDE, max_size_kb=5_000)
    presets: ClassVar[Mapping[str, PreprocessConfig]] = {"pollo-optimized": _OPTIMIZED}
    takes_data_urls = False
    sends_webhooks = True
    task_id_names = ("taskId",)
    states: ClassVar[Mapping[str, TaskState]] = {
        "waiting": TaskState.PENDING,
        "processing": TaskState.PROCESSING,
        "succeed": TaskState.SUCCESS,
        "failed": TaskState.FAILED,
    }

    @classmethod
    def image_needs(cls, parameters: Parameters) -> ImageNeeds:
        """A picture that fills the video: what sticks out of its ratio is cut off."""
        assert isinstance(parameters, PolloParameters)
        across, down = (int(part) for part in ratio_of(parameters.size_or_ratio).split(":"))
        factor = min(_LONG_SIDE / max(across, down), _SHORT_SIDE / min(across, down))
        size = {"width": max(1, round(across * factor)), "height": max(1, round(down * factor))}
        return cls.preprocess.changed({"resize": size})

    @staticmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """Source: docs.pollo.ai, authentication."""
        return {"x-api-key": credentials["api_key"]}

    @staticmethod
    def refine(reply: Reply) -> ErrorCode | None:
        """The vendor's own words for errors, also with status 200."""
        word = reply.body.get("code") if isinstance(reply.body, dict) and reply.status < 500 else None
        return _CODES.get(word) if isinstance(word, str) and not reply.says("credit") else None

    async def submit(self, request: SubmitRequest) -> Submitted:
        """POST /generation/{brand}/{model}."""
        webhook = {"webhookUrl": request.webhook_url} if request.webhook_url else {}
        payload = {"input": _input(request), **webhook}
        reply = await self.http.post(f"/generation/{request.upstream_model}", json=payload)
        return submitted(reply, *self.task_id_names, reports=bool(webhook))

    async def check_task(self, task: Task) -> TaskStatus:
        """GET /generation/{id}/status."""
        reply = await self.http.get(f"/generation/{task.task_id}/status", about=task.task_id)
        return self._status(reply, task.task_id)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """The same JSON as a check, signed as Standard Webhooks are, with `x-` before the headers' names."""
        standard_webhook(headers, body, secret=secret, now=now, prefix="x-")
        return webhook_report(body, "taskId", read=self._status)

    def _status(self, reply: Reply, task_id: str) -> TaskStatus:
        listed = [*lists_in(reply.body, "generations")]
        if not listed:
            return status_in(reply, self.states, task_id)
        entries = next((found for place, found in listed if not describes_other_task(reply.body, place, task_id)), None)
        if entries is None:
            raise reply.unreadable("it is about another task")
        # Each is the description of a task of its own, which may lie below another.
        found = [task_in({"data": entry}, self.states) for entry in entries]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            raise reply.unreadable("one of its generations has no status")
        states = {one.state for one in known}
        if not all(state.has_ended for state in states):
            started = TaskState.PROCESSING if states != {TaskState.PENDING} else TaskState.PENDING
            return TaskStatus(started, unknown_state=next((one.unknown for one in known if one.unknown), None))
        if TaskState.SUCCESS not in states:
            why = next((one for one in known if reason_in(one)), known[0])
            return TaskStatus(why.state, error=failure(why, reply.facts()))
        succeeded = [one for one in known if one.state is TaskState.SUCCESS]
        outputs = [output for one in succeeded for output in named_outputs(one) or outputs_at(paths_in(one))]
        if not outputs:
            raise reply.unreadable("the task has succeeded and no output is named")
        return TaskStatus(TaskState.SUCCESS, tuple(outputs))


def _input(request: SubmitRequest) -> dict[str, Any]:
    parameters = request.parameters
    assert isinstance(parameters, PolloParameters)
    images = dict(zip(("image", "imageTail"), (image.url for image in request.input_images), strict=False))
    given = {
        "prompt": request.prompt,
        "resolution": parameters.resolution,
        "length": parameters.duration,
        "aspectRatio": ratio_of(parameters.size_or_ratio),
        "mode": parameters.mode,
        "seed": parameters.seed,
        "negativePrompt": parameters.negative_prompt,
        "generateAudio": parameters.generate_audio,
        **images,
    }
    return {key: value for key, value in given.items() if value is not None}
