"""The shape of an adapter: our request to the vendor's, the vendor's reply to ours, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from yarl import URL

from libs.common.adapters.http import ProviderHttp, Reply
from libs.common.adapters.identity import named_task_id_in
from libs.common.database.records import MediaType
from libs.common.database.states import TaskState
from libs.common.encodings import is_data_url
from libs.common.errors import ErrorCode, GenerationError
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters


@dataclass(frozen=True, slots=True)
class InputImage:
    """A picture to start from: an http(s) or data URL; its bytes too for adapters with `needs_image_bytes`."""

    url: str
    content: bytes = b""
    content_type: str = ""

    @property
    def bare_base64(self) -> str:
        """What a data URL holds, without its prefix; an http(s) URL as it is."""
        return self.url.partition(";base64,")[2] or self.url


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """What is to be made, as an adapter gets it.

    `client_id` is our own id of this attempt, for vendors that take one. `parameters` is an instance of the adapter's
    `parameters`. `webhook_url` is where the vendor may report the end of the task, signed with `webhook_secret` where
    the vendor takes one.
    """

    client_id: str
    upstream_model: str
    prompt: str
    input_images: tuple[InputImage, ...]
    number_of_outputs: int
    parameters: Parameters
    media_type: MediaType = "image"
    user_id: str | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderOutput:
    """One output of a provider: a URL to fetch it from, or its bytes.

    `needs_credentials`: the URL is the provider's API itself, and answers to the account's key alone.
    """

    url: str | None = None
    content: bytes | None = None
    needs_credentials: bool = False

    @property
    def must_be_stored(self) -> bool:
        """Whether clients cannot be given a URL of the output.

        They cannot where the provider sent bytes, where the URL answers to the account's key alone, and where it is a
        `data:` URL.
        """
        return self.content is not None or self.needs_credentials or is_data_url(self.url or "")

    def to_source(self, media_type: MediaType) -> dict[str, Any]:
        """The form in which a row keeps where an output is to be fetched from."""
        return {"type": media_type, "url": self.url} | ({"needs_credentials": True} if self.needs_credentials else {})


def must_store(outputs: Iterable[ProviderOutput], *, upload_to_s3: bool) -> bool:
    """Whether the outputs of a result have to be stored before clients can read them.

    Args:
        outputs: of the result.
        upload_to_s3: whether the catalog has the account's outputs stored in any case.
    """
    return upload_to_s3 or any(output.must_be_stored for output in outputs)


@dataclass(frozen=True, slots=True)
class Submitted:
    """The provider took the request and works on it. `check_url` for vendors that name one.

    `reports` says that it was asked to report the end to the request's `webhook_url`.
    """

    task_id: str
    check_url: str | None = None
    reports: bool = False


@dataclass(frozen=True, slots=True)
class Completed:
    """The provider answered with the outputs themselves.

    Attributes:
        outputs: those that can be read, one at least.
        cost_usd: what it cost, where the reply says so.
        unread: how many further outputs the reply has that cannot be read; the provider bills them all the same.
    """

    outputs: tuple[ProviderOutput, ...]
    cost_usd: float | None = None
    unread: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """A task as an adapter needs it to ask for it. `age_seconds` counts from its hand-over."""

    task_id: str
    upstream_model: str
    check_url: str | None
    age_seconds: float


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What a provider says of a task. `progress` in percent, 0 to 100; `cost_usd` where it says what it cost."""

    state: TaskState
    outputs: tuple[ProviderOutput, ...] = ()
    progress: int | None = None
    error: GenerationError | None = None
    cost_usd: float | None = None
    unknown_state: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookReport:
    """What a webhook says of a task. `status` None: it is only a hint, and the task has to be checked."""

    task_id: str
    status: TaskStatus | None = None


class Adapter(ABC):
    """One instance for each provider account of the catalog.

    Class attributes tell what the vendor is like; `name` is set by the `adapter` decorator.
    A method raises GenerationError. Only a submit raises NotAccepted, where the provider provably took nothing;
    whatever else it raises counts as uncertain. What a check raises says nothing of the task: that a task has failed is
    in the TaskStatus that it returns. A reply of the provider's that cannot be read is an UnreadableReply.
    """

    name: ClassVar[str]
    parameters: ClassVar[type[Parameters]]
    """The schema of this vendor's `parameters`, defaults included."""
    credentials: ClassVar[tuple[str, ...]] = ("api_key",)
    """What the catalog must name an environment variable for."""
    task_id_names: ClassVar[tuple[str, ...]] = ()
    """The vendor's own names for the id of a task in the reply to a submit, beside those of `identity.py`."""
    states: ClassVar[Mapping[str, TaskState]] = {}
    """The vendor's own words for where a task stands; they win over the shared vocabulary of `states.py`."""
    idempotent_submit: ClassVar[bool] = False
    """Whether a submit with the same `client_id` may be repeated without a second bill."""
    can_find_task: ClassVar[bool] = False
    """Whether `find_task` works."""
    lookups_are_consistent: ClassVar[bool] = False
    """Whether the vendor documents that `find_task` finds a task from the moment at which its submit was accepted.

    Only then does its finding nothing, long after a submit whose reply was lost, show that nothing was accepted.
    """
    repeats_task_id: ClassVar[bool] = True
    """Whether an id in the reply to a check is the one that was asked for, so that any other is another task's.

    False for relays that answer with the vendor's id in place of their own. A reply that ends the task without a result
    must name no other id even then.
    """
    can_list: ClassVar[bool] = False
    """Whether `check_tasks` costs fewer calls than checking one by one."""
    can_cancel: ClassVar[bool] = False
    """Whether `cancel` works."""
    sends_webhooks: ClassVar[bool] = False
    """Whether `parse_webhook` works."""
    signs_webhooks: ClassVar[bool] = True
    """Whether its webhooks are signed; those of others are hints to check and nothing more."""
    preprocess: ClassVar[ImageNeeds | None] = None
    """What input images must become for this vendor. None: they go as they come."""
    presets: ClassVar[Mapping[str, PreprocessConfig]] = {}
    """Configs that callers may name, made for this vendor."""
    needs_image_bytes: ClassVar[bool] = False
    """Whether input images must be handed over as bytes."""
    takes_data_urls: ClassVar[bool] = True
    """Whether input images may be data URLs."""
    reply_limit_bytes: ClassVar[int] = 1024**2
    """The largest reply read."""

    def __init__(self, http: ProviderHttp) -> None:
        self.http = http

    @classmethod
    def unconnected(cls) -> Self:
        """An instance that calls nobody, to read webhooks where the credentials are not."""
        return cls.__new__(cls)

    @classmethod
    def has_tasks(cls) -> bool:
        """Whether a submit starts a task that can be asked for; False where its reply holds the outputs."""
        return cls.check_task is not Adapter.check_task

    @classmethod
    def image_needs(cls, parameters: Parameters) -> ImageNeeds | None:
        """What input images must become for a request with these parameters."""
        return cls.preprocess

    @staticmethod
    @abstractmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """The headers that carry `credentials`."""

    @staticmethod
    def refine(reply: Reply) -> ErrorCode | None:
        """The code of a reply that is an error, where the vendor says more than its HTTP status. None: it does not.

        Also asked about replies with status 200: relays answer so with an error in the body.
        """
        return None

    @classmethod
    def is_accepted(cls, reply: Reply) -> bool:
        """Whether the reply to a submit shows that the provider accepted the request although its status is an error.

        It does where it names the task. Such a reply is read like a good one: to submit again may pay twice.
        """
        return named_task_id_in(reply.body, cls.task_id_names) is not None

    @abstractmethod
    async def submit(self, request: SubmitRequest) -> Submitted | Completed:
        """Hand the request to the provider."""

    async def check_task(self, task: Task) -> TaskStatus:
        """Ask where a task stands."""
        raise GenerationError(ErrorCode.INTERNAL_ERROR, f"{self.name} has no tasks: it answers with the outputs.")

    async def check_tasks(self, tasks: Sequence[Task]) -> dict[str, TaskStatus]:
        """Ask where several tasks stand; by task id. Those that the vendor does not name are left out."""
        return {task.task_id: await self.check_task(task) for task in tasks}

    def absolute(self, outputs: Sequence[ProviderOutput]) -> tuple[ProviderOutput, ...]:
        """The outputs of a check; a URL that is relative is resolved against the account's base URL (RFC 3986, 5)."""
        return tuple(
            replace(output, url=str(URL(self.http.url("/")).join(URL(output.url, encoded=True))))
            if output.url is not None and output.url.startswith("/")
            else output
            for output in outputs
        )

    async def cancel(self, task: Task) -> bool:
        """Ask the vendor to stop a task.

        Returns True only where the vendor's reply says that the task is stopped and did not finish; False where it had
        ended already, and where the vendor has only taken note of the wish. A task that has ended is no error.
        """
        raise GenerationError(ErrorCode.UNIMPLEMENTED, f"{self.name} cannot cancel a task.")

    async def find_task(self, client_id: str) -> Submitted | None:
        """The task that was submitted under our own id, or None where the vendor answers that it finds none."""
        raise GenerationError(ErrorCode.UNIMPLEMENTED, f"{self.name} cannot find a task by our id.")

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookReport:
        """What a webhook says.

        Args:
            headers: by lower-case name.
            body: as it came.
            secret: what the vendor signs with, as the account has it.
            now: Unix seconds, against replays.

        Raises GenerationError: AUTHENTICATION_FAILED for a signature that is missing, wrong or too old, and
        PROVIDER_ERROR for a body that cannot be read.
        """
        raise GenerationError(ErrorCode.UNIMPLEMENTED, f"{self.name} sends no webhooks.")
