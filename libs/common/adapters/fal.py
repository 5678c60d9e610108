"""fal.ai's queue: any app by its name. Source: docs.fal.ai, queue and webhooks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import BaseModel, Field

from libs.common.adapters.base import Adapter, ProviderOutput, SubmitRequest, Submitted, Task, TaskStatus, WebhookReport
from libs.common.adapters.http import Reply
from libs.common.adapters.reading import TaskId, webhook_body
from libs.common.adapters.registry import adapter
from libs.common.adapters.searching import error_texts, every_url, output_paths, output_urls, task_in, text_in
from libs.common.adapters.signatures import ed25519
from libs.common.adapters.tasks import failure, moderated, outputs_at, status_in, submitted
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters
from libs.common.validation.image import Seed, SizeOrRatio, explicit_size, size_for_ratio
from libs.common.validation.video import ratio_of

_HEADER = "x-fal-webhook-"
_MODERATED = "content_policy_violation"
_APPS_ERROR = frozenset({422})
_RETRY_HEADERS = ("x-fal-retryable", "x-fal-needs-retry")
# They differ where fal itself has repeated the request.
_REQUEST_IDS = ("request_id", "gateway_request_id")


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
    # A result may hold its files as data URLs.
    reply_limit_bytes = 16 * 1024**2
    task_id_names = ("request_id",)
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
        is_moderated = 400 <= reply.status < 500 and reply.says(_MODERATED)
        return ErrorCode.CONTENT_REJECTED if is_moderated else None

    async def submit(self, request: SubmitRequest) -> Submitted:
        """POST /{owner}/{app}."""
        webhook = f"?fal_webhook={quote(request.webhook_url, safe='')}" if request.webhook_url else ""
        reply = await self.http.post(f"/{request.upstream_model}{webhook}", json=_input(request))
        accepted = submitted(reply, *self.task_id_names, reports=bool(webhook))
        app = "/".join(request.upstream_model.split("/")[:2])
        status_url = text_in(reply.body, "status_url") or f"/{app}/requests/{accepted.task_id}/status"
        return replace(accepted, check_url=status_url)

    async def check_task(self, task: Task) -> TaskStatus:
        """GET the status URL; once it says COMPLETED, the response: the result, or the app's validation error.

        Only that error, which comes with status 422, is the app's own word for failure. Any other is one of the read:
        the result is paid for, and the response is there for the next read.
        """
        reply = await self.http.get(self._url(task))
        made = [ProviderOutput()]
        status = status_in(reply, self.states, task.task_id, outputs=lambda _: made, id_names=_REQUEST_IDS)
        found = task_in(reply.body, self.states, task.task_id)
        if status.state is not TaskState.SUCCESS or found is None:
            return status
        if found.node.get("error"):
            # A request that ended in an error is COMPLETED as well, and the status says so.
            return TaskStatus(TaskState.FAILED, error=failure(found, reply.facts()))
        try:
            reply = await self.http.get(self._url(task).removesuffix("/status"), answers=_APPS_ERROR)
        except GenerationError as error:
            return moderated(error)
        if _describes_other_request(reply, task.task_id):
            raise reply.unreadable("it is about another task")
        if reply.status in _APPS_ERROR:
            return TaskStatus(TaskState.FAILED, error=_apps_error(reply))
        outputs = tuple(_outputs(reply.body))
        if not outputs:
            raise reply.unreadable("the task has succeeded and no output is named")
        return TaskStatus(TaskState.SUCCESS, outputs)

    async def cancel(self, task: Task) -> bool:
        """PUT the cancel URL: 202 says only that the wish is noted, 400 that the task has ended already."""
        try:
            await self.http.cancel("PUT", self._url(task).removesuffix("/status") + "/cancel")
        except GenerationError as error:
            if "ALREADY_COMPLETED" not in error.message:
                raise
        return False

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """Signed with Ed25519 over four lines; `secret` is the vendor's JWKS document."""
        words = [headers.get(f"{_HEADER}{name}", "") for name in ("request-id", "user-id", "timestamp")]
        message = "\n".join([*words, hashlib.sha256(body).hexdigest()]).encode()
        ed25519(message, headers.get(f"{_HEADER}signature", ""), keys=secret, timestamp=words[2], now=now)
        found = webhook_body(_Webhook, body)
        if found.status == "OK":
            outputs = tuple(_outputs(found.payload))
            return WebhookReport(found.request_id, TaskStatus(TaskState.SUCCESS, outputs) if outputs else None)
        why = str(found.error or found.payload or "no reason given")[:500]
        code = ErrorCode.CONTENT_REJECTED if _MODERATED in why else ErrorCode.TASK_FAILED
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


def _outputs(result: Any) -> list[ProviderOutput]:
    """`images` and `videos` are lists of files, `image` and `video` one; a file is an object with a `url`.

    Apps with names of their own for their outputs are searched for URLs.
    """
    usual = [result.get(name) for name in ("images", "image", "videos", "video")] if isinstance(result, dict) else []
    urls = every_url(usual) or output_urls(result)
    return [ProviderOutput(url=url) for url in urls] or outputs_at(output_paths(result))


def _describes_other_request(reply: Reply, task_id: str) -> bool:
    """Whether a response names another request, and says that it has failed or where it stands.

    The result of an app is its own: whatever it holds under such names is not judged.
    """
    body = reply.body if isinstance(reply.body, dict) else {}
    if reply.status not in _APPS_ERROR and "status" not in body:
        return False
    named = [body[name] for name in _REQUEST_IDS if isinstance(body.get(name), str)]
    return bool(named) and task_id not in named


def _apps_error(reply: Reply) -> GenerationError:
    """The app's validation error: `detail`, a list of objects with `loc`, `msg` and `type`, or a text in older apps.

    Source: fal.ai/docs/errors. Raises UnreadableReply for a reply that has not its form, and for one whose header
    says that the same read may succeed.
    """
    texts = error_texts(reply.body)
    says_retry = any(reply.headers.get(name, "").lower() in {"true", "1"} for name in _RETRY_HEADERS)
    if says_retry or not isinstance(reply.body, dict) or not reply.body.get("detail"):
        raise reply.unreadable("a 422 that is not the app's error")
    code = ErrorCode.CONTENT_REJECTED if _MODERATED in texts else ErrorCode.TASK_FAILED
    return GenerationError(code, f"The provider answered {reply.status}: {reply.text}", reply.facts())
