"""What the stores take and give of generations: plain typed values, each named after what it is in the design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from libs.common.database.states import State

Json = dict[str, Any]
UncertainPolicy = Literal["fail", "resubmit"]
MediaType = Literal["image", "video"]
Strategy = Literal["fixed", "exponential"]


class Lease(NamedTuple):
    """A claim of a row: the generation that the row is for, and the fencing token of the claim."""

    generation_id: str
    token: int


@dataclass(frozen=True, slots=True)
class Fallback:
    """A model to try where an earlier one cannot take the request, with the request's parameters as it knows them."""

    model_identifier: str
    provider_id: str
    parameters: Json
    expected_cost_usd: float


@dataclass(frozen=True, slots=True)
class ImageFrom:
    """An input image that another generation of the same batch makes: whose, and which of its outputs."""

    batch_ref: str
    output: int


@dataclass(frozen=True, slots=True)
class MadeImage:
    """An input image that another generation of the same batch was to make, as a claim finds it.

    `source`: the output as rows keep outputs; None where it cannot be had. `fault`: why not. `is_left_out`: the
    generation that was to make it did not succeed and need not (`on_failure` CONTINUE), so the request runs without it.
    """

    batch_ref: str
    output: int
    source: Json | None = None
    fault: str | None = None
    is_left_out: bool = False


@dataclass(frozen=True, slots=True)
class NewGeneration:
    """A validated request, about to become a row."""

    id: str
    model_identifier: str
    provider_id: str
    media_type: MediaType
    prompt: str
    input_images: list[str]
    number_of_outputs: int
    parameters: Json
    priority: int
    when_uncertain: UncertainPolicy
    user_id: str | None
    labels: dict[str, str]
    request_id: str
    api_key_id: str = ""
    owner: str = ""
    expected_cost_usd: float = 0.0
    reserved_usd: float = 0.0
    fallbacks: tuple[Fallback, ...] = ()
    callback_url: str | None = None
    request_hash: str | None = None
    trace_parent: str | None = None
    batch_id: str | None = None
    batch_index: int | None = None
    batch_ref: str | None = None
    images_from: tuple[ImageFrom, ...] = ()
    preprocess: Json | None = None
    experiment_id: str | None = None
    variant_id: str | None = None
    experiment_version: int | None = None
    requested_model_identifier: str | None = None
    rerun_of_id: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """A generation as its row and its task's row tell it."""

    id: str
    state: State
    model_identifier: str
    provider_id: str
    media_type: MediaType
    prompt: str
    number_of_outputs: int
    parameters: Json
    priority: int
    user_id: str | None
    labels: dict[str, str]
    request_id: str
    attempts: int
    provider_task_id: str | None
    outputs: list[Json] | None
    error: Json | None
    cost_usd: float | None
    fallback_path: list[Json]
    next_attempt_at: datetime
    cancel_requested_at: datetime | None
    continues_id: str | None
    created_at: datetime
    updated_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    api_key_id: str
    owner: str
    batch_id: str | None
    batch_index: int | None
    batch_ref: str | None
    experiment_id: str | None
    variant_id: str | None
    requested_model_identifier: str | None
    reused_from_id: str | None
    rerun_of_id: str | None
    callback_url: str | None
    progress: int
    polls: int
    continued_by_id: str | None
    at_risk_usd: float = 0.0
    rerun_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """The part of a generation's request that its record does not have; `fallbacks` are those still to be tried."""

    input_images: list[str]
    preprocess: Json | None
    when_uncertain: UncertainPolicy
    fallbacks: list[Json]
    images_from: list[Json]
