"""From messages to what the store takes, or to every rule that they break."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace

from darkroom.poller.v1 import poller_pb2

from libs.common.catalog import Catalog, Model, Provider
from libs.common.database.records import NewGeneration, Strategy
from libs.common.database.records_dispatch import NewTask
from libs.common.database.records_tasks import PollTaskRecord
from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.ids import new_id
from libs.common.rpc.requests import ID_LIMIT, text_faults

TASK_ID_LIMIT = 200
PAGE_DEFAULT, PAGE_LIMIT = 50, 1_000
_STRATEGIES: dict[int, Strategy] = {
    poller_pb2.POLL_STRATEGY_FIXED: "fixed",
    poller_pb2.POLL_STRATEGY_EXPONENTIAL: "exponential",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A page asked for: how many rows, and after which (time, provider, task)."""

    size: int
    after: tuple[str, str, str] | None


def page_of(request: poller_pb2.ListTasksRequest) -> Page:
    """The page that a request asks for. InvalidRequest for a bad size or token."""
    size = request.page_size or PAGE_DEFAULT
    found = []
    if not 1 <= size <= PAGE_LIMIT:
        found.append(FieldViolation("page_size", "range", f"must be from 0 to {PAGE_LIMIT}"))
    found += text_faults({"provider_id": request.provider_id}, {"provider_id": ID_LIMIT})
    after = None
    if request.page_token:
        try:
            time, provider_id, task_id = json.loads(base64.urlsafe_b64decode(request.page_token))
            after = (str(time), str(provider_id), str(task_id))
        except (binascii.Error, ValueError, TypeError):
            found.append(FieldViolation("page_token", "token", "must be the next_page_token of an earlier answer"))
    if found:
        raise InvalidRequest(found)
    return Page(size, after)


def page_token(last: PollTaskRecord) -> str:
    """The token for the page after `last`."""
    key = [last.next_poll_at.isoformat(), last.provider_id, last.task_id]
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def adopted(request: poller_pb2.AddTaskRequest, catalog: Catalog, request_id: str) -> tuple[NewGeneration, NewTask]:
    """A generation and its task for what another backend submitted itself.

    Raises NotFound for an unknown model, and InvalidRequest with every violation at once.
    """
    model = catalog.model(request.model_identifier)
    provider = catalog.provider_of(model)
    found = _violations(request, provider)
    if found:
        raise InvalidRequest(found)
    # The other backend's parameters are not known: what one output costs by the defaults.
    defaults = catalog.parameters(model, {}).model_dump(mode="json", exclude_none=True)
    generation = replace(
        _generation(model, request_id),
        # How many were asked for is not known, either.
        number_of_outputs=model.max_outputs,
        expected_cost_usd=model.cost_usd(1, defaults),
    )
    return generation, _task(request, model, provider)


def _violations(request: poller_pb2.AddTaskRequest, provider: Provider) -> list[FieldViolation]:
    rules = {
        ("task_id", "length", f"must have 1 to {TASK_ID_LIMIT} characters, none of them NUL"): (
            1 <= len(request.task_id) <= TASK_ID_LIMIT and "\x00" not in request.task_id
        ),
        ("provider_id", "matches", f"must be the model's provider, {provider.id}"): request.provider_id == provider.id,
        ("adapter_name", "matches", f"must be the provider's adapter, {provider.adapter}"): (
            request.adapter_name in ("", provider.adapter)
        ),
        ("max_duration_seconds", "range", "must be from 1 to 86400"): (
            not request.HasField("max_duration_seconds") or 1 <= request.max_duration_seconds <= 86_400
        ),
        ("poll_interval_ms", "range", "must be from 100 to 300000"): (
            not request.HasField("poll_interval_ms") or 100 <= request.poll_interval_ms <= 300_000
        ),
        ("check_url", "host", "must be an http(s) URL on a host of the provider"): (
            not request.check_url or provider.owns(request.check_url)
        ),
    }
    return [FieldViolation(*rule) for rule, holds in rules.items() if not holds]


def _generation(model: Model, request_id: str) -> NewGeneration:
    return NewGeneration(
        id=new_id("gen"),
        model_identifier=model.identifier,
        provider_id=model.provider,
        media_type=model.media_type,
        prompt="",
        input_images=[],
        number_of_outputs=1,
        parameters={},
        priority=5,
        when_uncertain="fail",
        user_id=None,
        labels={},
        request_id=request_id,
    )


def _task(request: poller_pb2.AddTaskRequest, model: Model, provider: Provider) -> NewTask:
    task = model.task(request.task_id, provider.adapter, request.check_url or None)
    given = {
        name: getattr(request, name) for name in ("poll_interval_ms", "max_duration_seconds") if request.HasField(name)
    }
    return replace(task, strategy=_STRATEGIES.get(request.strategy, task.strategy), **given)
