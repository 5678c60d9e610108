"""How the simulator behaves: latencies and faults, set for all requests, or for one by a directive in its prompt."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.simulators.files import OddFile

# For instance `a red apple [sim {"task_seconds": 30}]`.
_DIRECTIVE = re.compile(r"\[sim (\{.*\})\]")

Operation = Literal["submit", "check", "response", "result"]
"""`response`: the second read of a check, for vendors that answer with state and outputs apart."""
Chance = Callable[[], float]


class FaultKind(StrEnum):
    """What goes wrong."""

    BAD_REQUEST = "400"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    NOT_FOUND = "404"
    REQUEST_TIMEOUT = "408"
    NO_LONGER_THERE = "410"
    TOO_MANY_REQUESTS = "429"
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"
    TIMEOUT = "timeout"
    RESET = "reset"
    HTML = "html"
    TRUNCATED = "truncated"
    CUT_OFF = "cut_off"
    HALF = "half"
    NOTHING = "nothing"
    ERROR_IN_OK = "error_in_ok"
    MODERATED = "moderated"
    FAILED = "failed"
    GONE = "gone"
    GARBAGE = "garbage"
    EMPTY = "empty"
    UNKNOWN_STATE = "unknown_state"


ENDS = frozenset({FaultKind.MODERATED, FaultKind.FAILED})
"""How a task ends, which is decided once; whatever else goes wrong with a result does so when its file is read."""


class Fault(BaseModel):
    """One thing that goes wrong.

    `after` says whether a submit is accepted and billed first. HALF is for a result. `spared` says how often it does
    not happen at first. `times` bounds how often it happens; None: always.
    """

    model_config = ConfigDict(extra="forbid")

    operation: Operation
    kind: FaultKind
    after: bool = False
    spared: int = Field(default=0, ge=0)
    times: int | None = Field(default=None, ge=0)
    probability: float = Field(default=1.0, ge=0, le=1)
    retry_after_seconds: float | None = None


class Behaviour(BaseModel):
    """Latencies in seconds, and faults."""

    model_config = ConfigDict(extra="forbid")

    task_seconds: float = Field(default=1.5, ge=0)
    """How long an asynchronous task takes, or a synchronous one to be answered."""
    submit_seconds: float = Field(default=0.0, ge=0)
    """How long the answer to a submit takes beyond that."""
    active_tasks_limit: int = 24
    """Flux: more tasks at once are refused with 429."""
    result_seconds: float = 600.0
    """How long a Flux result can be fetched."""
    expired_reply: Literal["400", "403", "404", "410", "416", "html"] = "403"
    """What a result's host answers once its URL has expired: an HTTP status, or a page with status 200."""
    check_wait_seconds: float = Field(default=0.0, ge=0)
    """How long the vendor waits before it answers a check."""
    result_wait_seconds: float = Field(default=0.0, ge=0)
    """How long a result's host waits before it answers."""
    output_files: dict[str, OddFile] = {}
    """By the number of the output, from 0, what its file is instead of the picture or video."""
    lookup_delay_seconds: float = Field(default=0.0, ge=0)
    """How long after a submit the vendor's lookups by the client's own id do not find its task."""
    refused_reads: dict[str, Literal[401, 403]] = {}
    """By vendor, the HTTP status with which all of its reads (checks, lists, lookups) are refused now."""
    webhooks_lost: float = Field(default=0.0, ge=0, le=1)
    """The share of webhooks that are never sent."""
    webhooks_doubled: float = Field(default=0.0, ge=0, le=1)
    """The share of webhooks that are sent twice."""
    seed: int | None = None
    """Makes chance follow from this and the prompt alone, so that a run can be repeated."""
    faults: list[Fault] = []

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
