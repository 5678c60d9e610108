"""The shape of an adapter: our request to the vendor's, the vendor's reply to ours, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from libs.common.adapters.http import ProviderHttp, Reply
from libs.common.database.records import MediaType
from libs.common.database.states import TaskState
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

    def to_source(self, media_type: MediaType) -> dict[str, Any]:
        """The form in which a row keeps where an output is to be fetched from."""
        return {"type": media_type, "url": self.url} | ({"needs_credentials": True} if self.needs_credentials else {})


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
    """The provider answered with the outputs themselves. `cost_usd` where its reply says what it cost."""

    outputs: tuple[ProviderOutput, ...]
    cost_usd: float | None = None


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
    A method raises GenerationError; a submit raises NotAccepted only where the provider provably took nothing, and
    whatever else it raises counts as uncertain.
    """

    name: ClassVar[str]
    parameters: ClassVar[type[Parameters]]
    """The schema of this vendor's `parameters`, defaults included."""
    credentials: ClassVar[tuple[str, ...]] = ("api_key",)
    """What the catalog must name an environment variable for."""
    states: ClassVar[Mapping[str, TaskState]] = {}
    """The vendor's words for where a task stands."""
    idempotent_submit: ClassVar[bool] = False
    """Whether a submit with the same `client_id` may be repeated without a second bill."""
    can_find_task: ClassVar[bool] = False
    """Whether `find_task` works."""
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

    @abstractmethod
    async def submit(self, request: SubmitRequest) -> Submitted | Completed:
        """Hand the request to the provider."""

    async def check_task(self, task: Task) -> TaskStatus:
        """Ask where a task stands."""
        raise GenerationError(ErrorCode.INTERNAL_ERROR, f"{self.name} has no tasks: it answers with the outputs.")

    async def check_tasks(self, tasks: Sequence[Task]) -> dict[str, TaskStatus]:
        """Ask where several tasks stand; by task id. Those that the vendor does not name are left out."""
        return {task.task_id: await self.check_task(task) for task in tasks}

    async def cancel(self, task: Task) -> None:
        """Ask the vendor to stop a task. A task that has ended already is no error."""
        raise GenerationError(ErrorCode.UNIMPLEMENTED, f"{self.name} cannot cancel a task.")

    async def find_task(self, client_id: str) -> Submitted | None:
        """The task that was submitted under our own id, or None where the vendor surely has none."""
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

    def status_of(self, word: str) -> tuple[TaskState, str | None]:
        """The state for a vendor's word; an unknown one counts as processing and is named in the second place."""
        known = self.states.get(word)
        return (known, None) if known else (TaskState.PROCESSING, word[:100])
