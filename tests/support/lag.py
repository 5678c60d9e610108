"""How late the event loop of a service was, by the metric that it exports."""

from __future__ import annotations

import re

from libs.common.settings import ServiceName
from tests.support.http import call
from tests.support.running import Running

_METRIC = "darkroom_event_loop_lag_seconds_bucket"
_LE = re.compile(rf'^{_METRIC}\{{le="([^"]+)"\}} (\S+)$', re.MULTILINE)


async def late_turns(running: Running, service: ServiceName) -> float:
    """How often the event loop of a service has been more than 0.2 s late, of one reading of its metrics."""
    reply = await call(f"http://127.0.0.1:{running.stack.plan.ports.metrics[service]}", f"/metrics?name[]={_METRIC}")
    turns = {le: float(count) for le, count in _LE.findall(reply.body.decode())}
    return turns["+Inf"] - turns["0.2"]
