"""How a batch is to be run: from its message, with every fault."""

from __future__ import annotations

from collections.abc import Sequence

from darkroom.gateway.v1 import gateway_pb2
from pydantic import TypeAdapter, ValidationError

from libs.common.database.records_batches import BatchOptions
from libs.common.errors import FieldViolation
from libs.common.validation.common import CallbackUrl
from services.gateway.sameness import callback_faults

_CONCURRENCY_DEFAULT = 3
_RANGES: dict[str, tuple[float, float]] = {
    "max_concurrency": (1, 10_000),
    "priority": (0, 9),
    "budget_usd": (0, float("inf")),
    "callback_every_tasks": (1, 100_000),
    "callback_every_seconds": (1, 86_400),
}
_CALLBACK_URL: TypeAdapter[str] = TypeAdapter(CallbackUrl)


def options_of(
    message: gateway_pb2.BatchOptions, *, default_callback_url: str | None, callback_hosts: Sequence[str]
) -> tuple[BatchOptions, list[FieldViolation]]:
    """The options, and what is wrong with them; then they mean nothing.

    Args:
        message: as it came.
        default_callback_url: where its end is delivered to unless it says otherwise.
        callback_hosts: hosts that callbacks may go to though their addresses are not public.
    """
    given = {field.name: value for field, value in message.ListFields()}
    found = [
        FieldViolation(f"options.{name}", "range", _range(low, high))
        for name, (low, high) in _RANGES.items()
        if name in given and not low <= given[name] <= high
    ]
    is_parallel = message.parallel if message.HasField("parallel") else True
    if not is_parallel and given.get("max_concurrency", 1) != 1:
        found.append(FieldViolation("options.max_concurrency", "order", "must be 1 in a batch that is not parallel"))
    found += _callback_faults(message.callback_url, callback_hosts)
    url = message.callback_url or default_callback_url
    for name in ("callback_every_tasks", "callback_every_seconds"):
        if name in given and url is None:
            found.append(FieldViolation(f"options.{name}", "callback_url", "needs a callback_url"))
    options = BatchOptions(
        is_parallel=is_parallel,
        max_concurrency=given.get("max_concurrency", _CONCURRENCY_DEFAULT) if is_parallel else 1,
        stop_on_error=message.stop_on_error,
        priority=given.get("priority"),
        budget_usd=given.get("budget_usd"),
        callback_url=url,
        callback_every_tasks=given.get("callback_every_tasks"),
        callback_every_seconds=given.get("callback_every_seconds"),
    )
    return options, found


def _range(low: float, high: float) -> str:
    return f"must be {low:g} or more" if high == float("inf") else f"must be from {low:g} to {high:g}"


def _callback_faults(url: str, callback_hosts: Sequence[str]) -> list[FieldViolation]:
    if not url:
        return []
    try:
        _CALLBACK_URL.validate_python(url)
    except ValidationError as error:
        description = error.errors()[0]["msg"].removeprefix("Value error, ")
        return [FieldViolation("options.callback_url", "callback_url", description)]
    faults = callback_faults(url, callback_hosts)
    return [FieldViolation(f"options.{fault.field}", fault.rule, fault.description) for fault in faults]
