"""Alerts: what holds, who looks after it, what keeps quiet, and whether people would be told."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from darkroom.monitor.v1 import monitor_pb2

from libs.common.errors import FieldViolation, GenerationError, InvalidRequest
from services.gateway.console.lists import PAGE, ends_of
from services.gateway.console.viewer import current_viewer
from services.gateway.console.visit import Gone, Page, Visit
from services.gateway.console.wording import SILENCE_HOURS

_OPEN = 200
_TEST = "A test from the console: whoever reads this would be told of alerts."
_PATH = "/admin/monitoring/alerts"


async def show(visit: Visit) -> Page:
    """The page."""
    return await _page(visit)


async def _page(visit: Visit, error: GenerationError | None = None) -> Page:
    monitor = visit.parts.monitor
    firing, acknowledged, history, silences, channels = await asyncio.gather(
        visit.peer(monitor.ListAlerts, _in(monitor_pb2.ALERT_STATE_FIRING)),
        visit.peer(monitor.ListAlerts, _in(monitor_pb2.ALERT_STATE_ACKNOWLEDGED)),
        visit.peer(
            monitor.ListAlerts,
            monitor_pb2.ListAlertsRequest(
                state=monitor_pb2.ALERT_STATE_RESOLVED, page_size=PAGE, page_token=visit.before or ""
            ),
        ),
        visit.peer(monitor.ListSilences, monitor_pb2.ListSilencesRequest()),
        visit.peer(monitor.ListChannels, monitor_pb2.ListChannelsRequest()),
    )
    values = {
        "firing": firing.alerts,
        "acknowledged": acknowledged.alerts,
        "history": history.alerts,
        "silences": silences.silences,
        "channels": channels.channels,
        "ends": ends_of(visit.request, history.next_page_token or None),
        "error": error,
        "written": visit.fields.written(),
    }
    return Page("alerts.html", values, 200 if error is None else 400)


async def show_one(visit: Visit) -> Page:
    """One alert with its notices."""
    found = await visit.peer(visit.parts.monitor.GetAlert, monitor_pb2.GetAlertRequest(id=visit.named("id")))
    values = {"alert": found.alert, "deliveries": found.deliveries}
    return Page("alert.html", values)


async def acknowledge(visit: Visit) -> Gone:
    """Say that somebody looks after it."""
    alert_id = visit.named("id")
    request = monitor_pb2.AcknowledgeAlertRequest(id=alert_id, note=visit.fields.text("note"))
    await visit.peer(visit.parts.monitor.AcknowledgeAlert, request)
    return Gone(f"{_PATH}/{alert_id}", "acknowledged")


async def silence(visit: Visit) -> Page | Gone:
    """Keep alerts quiet for a time."""
    fields = visit.fields
    try:
        hours = fields.whole("hours")
        fields.check()
        if hours not in SILENCE_HOURS:
            raise InvalidRequest([FieldViolation("hours", "one_of", "must be one of those offered")])
        request = monitor_pb2.SilenceAlertsRequest(
            type=fields.text("type"), subject=fields.text("subject"), reason=fields.text("reason")
        )
        request.until.FromDatetime(current_viewer().now + timedelta(hours=hours))
        await visit.peer(visit.parts.monitor.SilenceAlerts, request)
    except GenerationError as error:
        if not error.violations:
            raise
        return await _page(visit, error)
    return Gone(_PATH, "silenced")


async def end_silence(visit: Visit) -> Gone:
    """Let people be told again."""
    await visit.peer(visit.parts.monitor.EndSilence, monitor_pb2.EndSilenceRequest(id=visit.named("id")))
    return Gone(_PATH, "silence_ended")


async def test(visit: Visit) -> Gone:
    """Send a test to a channel, and show what becomes of it."""
    request = monitor_pb2.SendAlertRequest(
        type="TEST",
        severity=monitor_pb2.ALERT_SEVERITY_INFO,
        message=_TEST,
        channels=[visit.named("channel")],
    )
    sent = await visit.peer(visit.parts.monitor.SendAlert, request)
    return Gone(f"{_PATH}/{sent.id}", "tested")


def _in(state: monitor_pb2.AlertState.ValueType) -> monitor_pb2.ListAlertsRequest:
    return monitor_pb2.ListAlertsRequest(state=state, page_size=_OPEN)
