"""Named points at which a fault test kills the process, as a power cut would. Nothing happens where none is armed."""

from __future__ import annotations

import os
import signal
from enum import StrEnum


class CrashPoint(StrEnum):
    """Each stands between two steps whose order a law of the design depends on."""

    GATEWAY_COMMITTED = "gateway.committed"
    DISPATCHER_CLAIMED = "dispatcher.claimed"
    DISPATCHER_ATTEMPT_RECORDED = "dispatcher.attempt_recorded"
    DISPATCHER_REPLY_RECEIVED = "dispatcher.reply_received"
    DISPATCHER_OUTPUT_STORED = "dispatcher.output_stored"
    DISPATCHER_OUTCOME_WRITTEN = "dispatcher.outcome_written"
    POLLER_TASK_CLAIMED = "poller.task_claimed"
    POLLER_TASK_CHECKED = "poller.task_checked"
    POLLER_OUTCOME_WRITTEN = "poller.outcome_written"
    POLLER_RESULT_CLAIMED = "poller.result_claimed"
    POLLER_RESULT_STORED = "poller.result_stored"
    POLLER_GENERATION_ENDED = "poller.generation_ended"


_armed: set[CrashPoint] = set()


def arm(name: str | None) -> None:
    """Choose the point at which this process dies. ValueError where there is none of that name."""
    _armed.clear()
    if name:
        _armed.add(CrashPoint(name))


def reach(point: CrashPoint) -> None:
    """Die here with SIGKILL if this point is the armed one."""
    if point in _armed:
        os.kill(os.getpid(), signal.SIGKILL)
