"""How figures of an experiment are written: each metric in its own unit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from services.gateway.console import formats

_DIGITS = 3


def written_by(metric: str) -> Callable[[float], str]:
    """What writes a value of a metric."""
    if metric == "success_rate":
        return formats.percent
    if metric == "avg_cost":
        return formats.money
    if metric in {"avg_duration", "p95_duration"}:
        return _seconds
    return partial(formats.number, digits=_DIGITS)


def _seconds(value: float) -> str:
    return f"{formats.number(value, 2)} s"
