"""The shape of an adapter: our request to the vendor's, the vendor's reply to ours, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from libs.common.adapters.http import ProviderHttp, Reply
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError
from libs.common.validation.common import Parameters


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """What is to be made, as an adapter gets it.

    `client_id` is our own id of this attempt, for vendors that take one. `input_images` are http(s) or data URLs.
    `parameters` is an instance of the adapter's `parameters`.
    """

    client_id: str
    upstream_model: str
    prompt: str
    input_images: tuple[str, ...]
    number_of_outputs: int
    parameters: Parameters
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderOutput:
    """One output of a provider: a URL to fetch it from, or its bytes."""

    url: str | None = None
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The provider took the request and works on it. `check_url` for vendors that name one."""

    task_id: str
    check_url: str | None = None


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
    reply_limit_bytes: ClassVar[int] = 1024**2
    """The largest reply read."""

    def __init__(self, http: ProviderHttp) -> None:
        self.http = http

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

    async def find_task(self, client_id: str) -> str | None:
        """The task that was submitted under our own id, or None where the vendor surely has none."""
        raise GenerationError(ErrorCode.INTERNAL_ERROR, f"{self.name} cannot find a task by our id.")

    def status_of(self, word: str) -> tuple[TaskState, str | None]:
        """The state for a vendor's word; an unknown one counts as processing and is named in the second place."""
        known = self.states.get(word)
        return (known, None) if known else (TaskState.PROCESSING, word[:100])
