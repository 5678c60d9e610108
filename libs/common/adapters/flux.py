"""Black Forest Labs' own API for the Flux models: asynchronous, polled.

Source: the API reference at docs.bfl.ai. Result URLs live ten minutes, so they are fetched at once.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from libs.common.adapters.base import Adapter, ProviderOutput, SubmitRequest, Submitted, Task, TaskStatus, WebhookReport
from libs.common.adapters.http import Reply
from libs.common.adapters.kept import plain
from libs.common.adapters.registry import adapter
from libs.common.adapters.searching import Found, every_url, path_of, text_in, urls_in
from libs.common.adapters.signatures import hmac_hex
from libs.common.adapters.tasks import outputs_at, status_in, submitted, webhook_report
from libs.common.adapters.walking import walk
from libs.common.database.states import TaskState
from libs.common.errors import GenerationError
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters
from libs.common.validation.image import Seed, SizeOrRatio, explicit_size, size_for_ratio

# Sides that flux-dev and flux-pro-1.1 take, in pixels.
_MULTIPLE, _LEAST, _MOST = 32, 256, 1_440
# Take a ratio and no size.
_BY_RATIO = ("ultra", "kontext")
# Base64 in the request; larger ones are scaled down there anyway, after they were paid for in traffic.
_IMAGES = ImageNeeds(
    PreprocessConfig.fitting(2_048, quality=92, kind="base64"),
    formats=("jpeg", "png", "webp"),
    longest_side=2_048,
    max_size_kb=15_000,
)


class FluxParameters(Parameters):
    """Source: the request schemas of the `/v1/{model}` routes."""

    size_or_ratio: SizeOrRatio = "1024x1024"
    seed: Seed | None = None
    prompt_upsampling: bool = Field(default=False, description="Let the vendor elaborate the prompt.")
    safety_tolerance: int = Field(default=2, ge=0, le=6, description="0 is the strictest moderation.")
    output_format: Literal["jpeg", "png"] = "jpeg"

    @field_validator("size_or_ratio")
    @classmethod
    def _within_bounds(cls, value: str) -> str:
        size = explicit_size(value)
        if size and not all(_LEAST <= side <= _MOST and side % _MULTIPLE == 0 for side in size):
            raise ValueError(f"sides must be multiples of {_MULTIPLE} from {_LEAST} to {_MOST} pixels")
        return value


@adapter("flux")
class Flux(Adapter):
    """Flux through api.bfl.ai. A submit has no id of ours and cannot be repeated safely; tasks cannot be cancelled."""

    parameters = FluxParameters
    preprocess = _IMAGES
    sends_webhooks = True
    task_id_names = ("id",)
    states: ClassVar[Mapping[str, TaskState]] = {
        "Pending": TaskState.PENDING,
        "Queued": TaskState.PENDING,
        "Processing": TaskState.PROCESSING,
        "Ready": TaskState.SUCCESS,
        "Request Moderated": TaskState.FAILED,
        "Content Moderated": TaskState.FAILED,
        "Error": TaskState.FAILED,
        "Failed": TaskState.FAILED,
    }

    @staticmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """Source: docs.bfl.ai, authentication."""
        return {"x-key": credentials["api_key"]}

    async def submit(self, request: SubmitRequest) -> Submitted:
        """POST /v1/{model}."""
        reply = await self.http.post(f"/v1/{request.upstream_model}", json=_payload(request))
        check_url = text_in(reply.body, "polling_url")
        return submitted(reply, *self.task_id_names, check_url=check_url, reports=request.webhook_url is not None)

    async def check_task(self, task: Task) -> TaskStatus:
        """GET the polling URL that the submit named."""
        reply = await self.http.get(task.check_url or f"/v1/get_result?id={task.task_id}", about=task.task_id)
        return self._status(reply, task.task_id)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """Signed with an HMAC over the body; some of the vendor's texts say that the secret itself comes back."""
        echoed = headers.get("x-webhook-secret", "")
        if not (echoed and hmac.compare_digest(echoed.encode(), secret.encode())):
            hmac_hex(headers.get("x-bfl-signature", ""), body, secret=secret)
        return webhook_report(body, "task_id", "id", read=self._status)

    def _status(self, reply: Reply, task_id: str) -> TaskStatus:
        return _with_details(status_in(reply, self.states, task_id, outputs=_samples, whole=1.0), reply.body)


def _payload(request: SubmitRequest) -> dict[str, Any]:
    assert isinstance(request.parameters, FluxParameters)
    payload = request.parameters.model_dump(exclude={"size_or_ratio"}, exclude_none=True) | {"prompt": request.prompt}
    chosen = request.parameters.size_or_ratio
    size = explicit_size(chosen)
    if any(word in request.upstream_model for word in _BY_RATIO):
        payload["aspect_ratio"] = f"{size.width}:{size.height}" if size else chosen
    else:
        size = size or size_for_ratio(chosen, pixels=1024**2, multiple=_MULTIPLE, least=_LEAST, most=_MOST)
        payload |= {"width": size.width, "height": size.height}
    if request.input_images:
        field = "input_image" if "kontext" in request.upstream_model else "image_prompt"
        payload[field] = request.input_images[0].bare_base64
    if request.webhook_url:
        payload |= {"webhook_url": request.webhook_url, "webhook_secret": request.webhook_secret}
    return payload


def _samples(found: Found) -> list[ProviderOutput]:
    # Several at once come as a list, under the same name.
    samples = [sample for place in walk(found.node) if (sample := place.node.get("sample"))]
    urls = next(filter(None, map(every_url, samples)), urls_in(found))
    paths = [path for sample in samples if (path := path_of(sample)) is not None]
    return [ProviderOutput(url=url) for url in urls] or outputs_at(paths[:1])


def _with_details(status: TaskStatus, body: Any) -> TaskStatus:
    """The status, and with a failure what the vendor says of it: an object, or a text for moderation."""
    details = body.get("details") if isinstance(body, dict) else None
    if status.error is None or not details:
        return status
    facts = status.error.details | {"provider_details": plain(details)}
    return replace(status, error=GenerationError(status.error.code, status.error.message, facts))
