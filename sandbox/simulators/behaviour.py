"""How the simulator behaves: latencies and faults, set for all requests, or for one by a directive in its prompt."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.simulators.files import OddFile

# For instance `a red apple [sim {"task_seconds": 30}]`.
_DIRECTIVE = re.compile(r"\[sim (\{.*\})\]")

Operation = Literal["submit", "check", "response", "result"]
"""`response`: the second read of a check, for vendors that answer with state and outputs apart."""
Chance = Callable[[], float]


class FaultKind(StrEnum):
    """What goes wrong, and what that looks like to a client of the vendor."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make a member of its value and its meaning."""
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.meaning = meaning
        return kind

    BAD_REQUEST = "400", "HTTP status 400 with the vendor's error body: the request is malformed."
    UNAUTHORIZED = "401", "HTTP status 401: the credentials are not valid."
    FORBIDDEN = "403", "HTTP status 403: the account may not do this."
    NOT_FOUND = "404", "HTTP status 404: there is no such task."
    REQUEST_TIMEOUT = "408", "HTTP status 408: the request took too long."
    NO_LONGER_THERE = "410", "HTTP status 410: the task is gone."
    TOO_MANY_REQUESTS = "429", "HTTP status 429: too many requests."
    SERVER_ERROR = "500", "HTTP status 500: an error of the vendor's server."
    BAD_GATEWAY = "502", "HTTP status 502: bad gateway."
    UNAVAILABLE = "503", "HTTP status 503: the service is overloaded."
    TIMEOUT = "timeout", "No answer for an hour."
    RESET = "reset", "The connection is reset."
    HTML = "html", "HTTP status 200 with an HTML page."
    TRUNCATED = "truncated", "HTTP status 200 with JSON that ends too early."
    CUT_OFF = "cut_off", "The connection is closed before the announced length of the body."
    HALF = "half", "For a result: the first half of the file, as a host answers that is still writing it."
    NOTHING = "nothing", "HTTP status 200 with an empty body."
    ERROR_IN_OK = "error_in_ok", "HTTP status 200 with an error in the body: the account is out of credit."
    MODERATED = "moderated", "For a result: moderation ends the task. OpenAI's images refuse the request."
    FAILED = "failed", "For a result: the task ends as failed."
    GONE = "gone", "HTTP status 404 with a text that is no JSON."
    GARBAGE = "garbage", "HTTP status 200 with bytes that are no image, declared as `image/png`."
    EMPTY = "empty", "HTTP status 200 with an empty JSON object."
    UNKNOWN_STATE = "unknown_state", "HTTP status 200 with a state that no adapter knows."


ENDS = frozenset({FaultKind.MODERATED, FaultKind.FAILED})
"""How a task ends, which is decided once; whatever else goes wrong with a result does so when its file is read."""


class Fault(BaseModel):
    """One thing that goes wrong."""

    model_config = ConfigDict(extra="forbid")

    operation: Operation = Field(
        description="Operation that goes wrong. `response`: the second read of fal's check, which answers the outputs."
    )
    kind: FaultKind = Field(description="What goes wrong: one of the kinds below.")
    after: bool = Field(default=False, description="Whether a submit is accepted and billed first.")
    spared: int = Field(default=0, ge=0, description="How many operations the fault spares at first.")
    times: int | None = Field(default=None, ge=0, description="How often the fault happens. If not set, every time.")
    probability: float = Field(default=1.0, ge=0, le=1, description="Probability of the fault at each operation.")
    retry_after_seconds: float | None = Field(
        default=None, description="The `Retry-After` of a reply with an HTTP status."
    )


class Behaviour(BaseModel):
    """Latencies in seconds, and faults."""

    model_config = ConfigDict(extra="forbid")

    task_seconds: float = Field(
        default=1.5, ge=0, description="How long an asynchronous task takes, or a synchronous reply."
    )
    submit_seconds: float = Field(default=0.0, ge=0, description="How long the answer to a submit takes beyond that.")
    active_tasks_limit: int = Field(default=24, description="Flux: more tasks at once are refused with 429.")
    result_seconds: float = Field(
        default=600.0, description="How long the URL of a result works; OpenAI's images have an hour in any case."
    )
    expired_reply: Literal["400", "403", "404", "410", "416", "html"] = Field(
        default="403",
        description="What a result's host answers once its URL has expired: an HTTP status, or `html`, a page with "
        "status 200.",
    )
    check_wait_seconds: float = Field(
        default=0.0, ge=0, description="How long the vendor waits before it answers a check."
    )
    result_wait_seconds: float = Field(
        default=0.0, ge=0, description="How long a result's host waits before it answers."
    )
    output_files: dict[str, OddFile] = Field(
        default={},
        description="By the number of the output, from 0, the file in its place: `svg`, `tiff`, `bmp`, `dash` (a "
        "video with the brands of DASH segments alone), `zip`, `html` or `gone` (404).",
    )
    lookup_delay_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long after a submit the vendor's lookups by the client's own id do not find the task.",
    )
    refused_reads: dict[str, Literal[401, 403]] = Field(
        default={},
        description="By vendor, the HTTP status (401 or 403) with which all its checks, lists and lookups are "
        "refused, whichever task they ask for.",
    )
    webhooks_lost: float = Field(default=0.0, ge=0, le=1, description="Share of webhooks that are never sent.")
    webhooks_doubled: float = Field(default=0.0, ge=0, le=1, description="Share of webhooks that are sent twice.")
    seed: int | None = Field(
        default=None,
        description="Makes chance follow from the seed and the prompt alone, so that a run can be repeated.",
    )
    faults: list[Fault] = Field(default=[], description="Faults, with the keys below.")

    def of_prompt(self, prompt: str) -> Behaviour:
        """What holds for a request with that prompt: its directive's words, and mine for the rest."""
        match = _DIRECTIVE.search(prompt)
        if match is None:
            return self
        try:
            own = Behaviour.model_validate_json(match[1])
        except ValidationError:
            return self
        return self.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})

    def fault(self, operation: Operation, chance: Chance, *, after: bool = False) -> Fault | None:
        """The fault that strikes now, if any; its count goes down. `chance` draws from 0 to 1."""
        for fault in self.faults:
            if fault.operation != operation or fault.after != after or fault.times == 0:
                continue
            if operation == "result" and fault.kind in ENDS:
                continue
            if chance() >= fault.probability:
                continue
            if fault.spared:
                fault.spared -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None
