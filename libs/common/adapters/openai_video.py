"""Video jobs in OpenAI's style. Source: the Videos section of OpenAI's API reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from libs.common.adapters.base import Adapter, ProviderOutput, SubmitRequest, Submitted, Task, TaskStatus, WebhookReport
from libs.common.adapters.http import FormFile
from libs.common.adapters.openai_errors import code_of
from libs.common.adapters.reading import TaskHint, webhook_body
from libs.common.adapters.registry import adapter
from libs.common.adapters.signatures import standard_webhook
from libs.common.adapters.tasks import moderated, status_in, submitted
from libs.common.database.states import TaskState
from libs.common.errors import GenerationError
from libs.common.imaging.config import Compression, PreprocessConfig, Resize
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters
from libs.common.validation.image import explicit_size
from libs.common.validation.video import WideOrTall

_SIZES = {"16:9": "1280x720", "9:16": "720x1280"}


_IMAGES = ImageNeeds(
    PreprocessConfig(
        resize=Resize(mode="cover", width=1_280, height=720, enlarge=True), compression=Compression(quality=95)
    ),
    formats=("jpeg", "png", "webp"),
    longest_side=2_048,
    max_size_kb=20_000,
)


class OpenAIVideoParameters(Parameters):
    """Source: POST /v1/videos."""

    size_or_ratio: WideOrTall = "16:9"
    duration: Literal[4, 8, 12] = Field(default=4, description="In seconds.")


@adapter("openai_video")
class OpenAIVideo(Adapter):
    """The result is read from the API itself, with the key. Nothing deduplicates a repeated submit."""

    parameters = OpenAIVideoParameters
    preprocess = _IMAGES
    needs_image_bytes = sends_webhooks = True
    refine = staticmethod(code_of)
    task_id_names = ("id",)
    states: ClassVar[Mapping[str, TaskState]] = {
        "queued": TaskState.PENDING,
        "in_progress": TaskState.PROCESSING,
        "completed": TaskState.SUCCESS,
        "failed": TaskState.FAILED,
    }

    @classmethod
    def image_needs(cls, parameters: Parameters) -> ImageNeeds:
        """Exactly as large as the video. Source: POST /v1/videos, `input_reference` must match `size`."""
        width, height = (int(side) for side in _size(parameters).split("x"))
        return cls.preprocess.changed({"resize": {"width": width, "height": height}})

    @staticmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """Source: authentication."""
        return {"authorization": f"Bearer {credentials['api_key']}"}

    async def submit(self, request: SubmitRequest) -> Submitted:
        """POST /v1/videos, as a form where a picture goes along."""
        fields = _fields(request)
        if request.input_images:
            image = request.input_images[0]
            kind = image.content_type.partition("/")[2]
            file = FormFile("input_reference", f"reference.{kind}", image.content, image.content_type)
            reply = await self.http.post("/v1/videos", form=fields, files=[file])
        else:
            reply = await self.http.post("/v1/videos", json=fields)
        return submitted(reply, *self.task_id_names)

    async def check_task(self, task: Task) -> TaskStatus:
        """GET /v1/videos/{id}."""
        try:
            reply = await self.http.get(f"/v1/videos/{task.task_id}", about=task.task_id)
        except GenerationError as error:
            return moderated(error)
        content = ProviderOutput(url=self.http.url(f"/v1/videos/{task.task_id}/content"), needs_credentials=True)
        return status_in(reply, self.states, task.task_id, outputs=lambda _: [content])

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """An event that names the job, signed as Standard Webhooks are: a hint to check it."""
        standard_webhook(headers, body, secret=secret, now=now)
        return WebhookReport(webhook_body(TaskHint, body).task_id)


def _fields(request: SubmitRequest) -> dict[str, str]:
    parameters = request.parameters
    assert isinstance(parameters, OpenAIVideoParameters)
    return {
        "model": request.upstream_model,
        "prompt": request.prompt,
        "seconds": str(parameters.duration),
        "size": _size(parameters),
    }


def _size(parameters: Parameters) -> str:
    assert isinstance(parameters, OpenAIVideoParameters)
    chosen = parameters.size_or_ratio
    return chosen if explicit_size(chosen) else _SIZES[chosen]
