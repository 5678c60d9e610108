"""fal.ai's queue: any app by its name. Source: docs.fal.ai, queue and webhooks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import BaseModel, Field

from libs.common.adapters.base import Adapter, ProviderOutput, SubmitRequest, Submitted, Task, TaskStatus, WebhookReport
from libs.common.adapters.http import Reply
from libs.common.adapters.reading import TaskId, webhook_body
from libs.common.adapters.registry import adapter
from libs.common.adapters.signatures import ed25519
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError, NotAccepted
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters
from libs.common.validation.image import Seed, SizeOrRatio, explicit_size, size_for_ratio
from libs.common.validation.video import ratio_of

_HEADER = "x-fal-webhook-"


# A data URL in the request.
_IMAGES = ImageNeeds(
    PreprocessConfig.fitting(2_048, quality=92, kind="base64"),
    formats=("jpeg", "png", "webp"),
    longest_side=4_096,
    max_size_kb=10_000,
)


class FalParameters(Parameters):
    """What most apps understand."""

    size_or_ratio: SizeOrRatio = "1024x1024"
    duration: int | None = Field(default=None, ge=1, le=60, description="In seconds, for videos.")
    seed: Seed | None = None


class _Accepted(BaseModel):
    request_id: TaskId
    status_url: str


class _Status(BaseModel):
    status: str


class _Webhook(BaseModel):
    request_id: TaskId
    status: str
    payload: Any = None
    error: Any = None


@adapter("fal")
class Fal(Adapter):
    """A submit has no id of ours and cannot be repeated safely. `upstream_model` is `owner/app` with its path."""

    parameters = FalParameters
    preprocess = _IMAGES
    can_cancel = sends_webhooks = True
    states: ClassVar[Mapping[str, TaskState]] = {
        "IN_QUEUE": TaskState.PENDING,
        "IN_PROGRESS": TaskState.PROCESSING,
        "COMPLETED": TaskState.SUCCESS,
    }

    @staticmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """Source: authentication."""
        return {"authorization": f"Key {credentials['api_key']}"}

    @staticmethod
    def refine(reply: Reply) -> ErrorCode | None:
        """Moderation is a validation error with a type of its own."""
        if reply.status >= 400 and "content_policy_violation" in reply.text:
            return ErrorCode.CONTENT_REJECTED
        return None

    async def submit(self, request: SubmitRequest) -> Submitted:
        """POST /{owner}/{app}."""
        webhook = f"?fal_webhook={quote(request.webhook_url, safe='')}" if request.webhook_url else ""
        reply = await self.http.post(f"/{request.upstream_model}{webhook}", json=_input(request))
        accepted = reply.parse(_Accepted)
        return Submitted(accepted.request_id, accepted.status_url, reports=bool(webhook))

    async def check_task(self, task: Task) -> TaskStatus:
        """GET the status URL; once it says COMPLETED, the response: the result, or the app's error."""
        state, unknown = self.status_of((await self.http.get(self._url(task))).parse(_Status).status)
        if state is not TaskState.SUCCESS:
            return TaskStatus(state, unknown_state=unknown)
        try:
            reply = await self.http.get(self._url(task).removesuffix("/status"))
        except NotAccepted as error:
            code = error.code if error.code is ErrorCode.CONTENT_REJECTED else ErrorCode.TASK_FAILED
            return TaskStatus(TaskState.FAILED, error=GenerationError(code, error.message, error.details))
        return TaskStatus(TaskState.SUCCESS, tuple(_outputs(reply.body)))

    async def cancel(self, task: Task) -> None:
        """PUT the cancel URL; 400 says that it has ended already."""
        try:
            await self.http.cancel("PUT", self._url(task).removesuffix("/status") + "/cancel")
        except GenerationError as error:
            if "ALREADY_COMPLETED" not in error.message:
                raise

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """Signed with Ed25519 over four lines; `secret` is the vendor's JWKS document."""
        words = [headers.get(f"{_HEADER}{name}", "") for name in ("request-id", "user-id", "timestamp")]
        message = "\n".join([*words, hashlib.sha256(body).hexdigest()]).encode()
        ed25519(message, headers.get(f"{_HEADER}signature", ""), keys=secret, timestamp=words[2], now=now)
        found = webhook_body(_Webhook, body)
        if found.status == "OK":
            return WebhookReport(found.request_id, TaskStatus(TaskState.SUCCESS, tuple(_outputs(found.payload))))
        why = str(found.error or found.payload or "no reason given")[:500]
        code = ErrorCode.CONTENT_REJECTED if "content_policy_violation" in why else ErrorCode.TASK_FAILED
        return WebhookReport(found.request_id, TaskStatus(TaskState.FAILED, error=GenerationError(code, why)))

    def _url(self, task: Task) -> str:
        if task.check_url is None:
            raise GenerationError(ErrorCode.INTERNAL_ERROR, "fal's tasks are asked for at the URL that fal named.")
        return task.check_url


def _input(request: SubmitRequest) -> dict[str, Any]:
    parameters = request.parameters
    assert isinstance(parameters, FalParameters)
    payload = parameters.model_dump(include={"duration", "seed"}, exclude_none=True) | {"prompt": request.prompt}
    if request.media_type == "video":
        payload["aspect_ratio"] = ratio_of(parameters.size_or_ratio)
    else:
        chosen = parameters.size_or_ratio
        size = explicit_size(chosen) or size_for_ratio(chosen, pixels=1024**2, multiple=16, least=256, most=2_048)
        payload |= {"image_size": {"width": size.width, "height": size.height}, "num_images": request.number_of_outputs}
    return payload | ({"image_url": request.input_images[0].url} if request.input_images else {})


def _outputs(result: Any) -> Iterator[ProviderOutput]:
    """`images` and `videos` are lists of files, `image` and `video` one; a file is an object with a `url`."""
    for name in ("images", "image", "videos", "video") if isinstance(result, dict) else ():
        found = result.get(name)
        for file in found if isinstance(found, list) else [found]:
            if isinstance(file, dict) and isinstance(file.get("url"), str):
                yield ProviderOutput(url=file["url"])
