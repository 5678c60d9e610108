"""How a service and a worker speak over a pipe: a line of JSON and a blob, each with its length before it.

Not pickle: a worker that a hostile image has taken over must not get further than its own process.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from libs.common.imaging.faults import RULES, ImageFault
from libs.common.imaging.picture import Prepared, StepReport
from libs.common.imaging.sizes import Size

LENGTHS = struct.Struct(">II")
READY = b"ready\n"
"""What a worker says once it can take an image."""


class Crashed(Exception):
    """The work itself has a fault, told by its traceback."""


def packed(head: dict[str, Any], content: bytes) -> bytes:
    """A message."""
    text = json.dumps(head).encode()
    return LENGTHS.pack(len(text), len(content)) + text + content


def answer_of(outcome: Prepared | ImageFault | Crashed) -> bytes:
    """What a worker answers."""
    if isinstance(outcome, ImageFault):
        return packed({"rule": outcome.rule, "why": outcome.why}, b"")
    if isinstance(outcome, Crashed):
        return packed({"traceback": str(outcome)}, b"")
    head = {name: getattr(outcome, name) for name in Prepared.__slots__ if name not in {"content", "steps"}}
    steps = [[report.step, report.seconds, report.changes] for report in outcome.steps]
    return packed({**head, "steps": steps}, outcome.content)


def outcome_of(head: dict[str, Any], content: bytes) -> Prepared:
    """What a worker has answered. Raises ImageFault and Crashed, and ValueError for what is no answer."""
    if "traceback" in head:
        raise Crashed(str(head["traceback"]))
    if "rule" in head:
        if head["rule"] not in RULES:
            raise ValueError("a worker names a rule that there is not")
        raise ImageFault(head["rule"], str(head["why"]))
    steps = tuple(StepReport(str(step), float(seconds), tuple(changes)) for step, seconds, changes in head.pop("steps"))
    for name in ("size", "source_size"):
        head[name] = Size(*head[name])
    return Prepared(content=content, steps=steps, **head)
