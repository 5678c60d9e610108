"""Each kind of channel against what it talks to: what is sent, and what a refusal is."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from libs.common.database.records_monitor import AlertRecord
from libs.common.database.states import AlertSeverity, AlertState
from sandbox.processes import free_port
from services.monitor.channels.alertmanager import Alertmanager, AlertmanagerConfig
from services.monitor.channels.base import ChannelFailed, Event
from services.monitor.channels.email import Email, EmailConfig
from services.monitor.channels.slack import Slack, SlackConfig
from services.monitor.delivering import attempt
from services.monitor.rules import parse
from services.monitor.telling import notification
from tests.support.alerting import PASSWORD, USERNAME, desk
from tests.support.closing import closing
from tests.support.waiting import eventually

_AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
_RULES = parse("rules: {API_DOWN: {threshold: 30, severity: CRITICAL}}", {})


def _alert(**changes: Any) -> AlertRecord:
    fields: dict[str, Any] = {
        "id": "alert_1",
        "type": "API_DOWN",
        "subject": "bfl",
        "severity": AlertSeverity.CRITICAL,
        "state": AlertState.FIRING,
        "message": "bfl has been down for 45 s: <its> circuit & all.",
        "value": 45,
        "threshold": 30,
        "details": {},
        "channels": ["x"],
        "started_at": _AT,
        "seen_at": _AT,
    }
    return AlertRecord(**(fields | changes))


def _message(event: Event = "firing", *alerts: AlertRecord) -> Any:
    return notification("ntf_1", event, alerts or [_alert()], created_at=_AT, rules=_RULES, console_url=None)


async def test_slack_by_token_posts_blocks_and_believes_the_body_not_the_status() -> None:
    answers: list[dict[str, Any]] = [
        {"ok": True},
        {"ok": False, "error": "ratelimited"},
        {"ok": False, "error": "channel_not_found"},
    ]
    async with _slack(answers) as taken:
        given = {"token": "xoxb-of-a-test", "channel": "C1", "api_url": taken.base}
        async with closing(Slack(SlackConfig.model_validate(given))) as channel:
            await channel.send(_message())
            with pytest.raises(ChannelFailed, match="ratelimited") as passing:
                await channel.send(_message())
            with pytest.raises(ChannelFailed, match="channel_not_found") as lasting:
                await channel.send(_message())
    assert (passing.value.is_hopeless, lasting.value.is_hopeless) == (False, True)
    sent = taken.received[0]
    assert sent["headers"]["authorization"] == "Bearer xoxb-of-a-test"
    assert sent["json"]["channel"] == "C1"
    assert "&lt;its&gt; circuit &amp; all" in sent["json"]["blocks"][1]["text"]["text"]


class _Taken:
    def __init__(self, base: str) -> None:
        self.base = base
        self.received: list[dict[str, Any]] = []


@asynccontextmanager
async def _slack(answers: list[dict[str, Any]]) -> AsyncIterator[_Taken]:
    port = free_port()
    taken = _Taken(f"http://127.0.0.1:{port}/")

    async def take(request: web.Request) -> web.Response:
        taken.received.append(
            {"headers": {name.lower(): value for name, value in request.headers.items()}, "json": await request.json()}
        )
        return web.json_response(answers[len(taken.received) - 1])

    app = web.Application()
    app.router.add_post("/chat.postMessage", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield taken
    finally:
        await runner.cleanup()


async def test_mail_with_a_wrong_password_is_hopeless_and_names_none(tmp_path: Path) -> None:
    async with desk(tmp_path) as told:
        settings = {
            "host": "127.0.0.1",
            "port": told.mailbox.port,
            "ca_file": str(told.mailbox.ca),
            "username": USERNAME,
            "sender": "a@example.com",
            "recipients": "b@example.com, c@example.com",
        }
        good = Email(EmailConfig.model_validate({**settings, "password": PASSWORD}))
        assert await attempt(good, _message()) == (None, False)
        wrong = Email(EmailConfig.model_validate({**settings, "password": "a-wrong-one-altogether"}))
        why, is_hopeless = await attempt(wrong, _message())
        assert is_hopeless
        assert "a-wrong-one" not in (why or "")
        (mail,) = told.mailbox.messages
        assert (mail["Message-ID"], mail["To"]) == ("<ntf_1@example.com>", "b@example.com, c@example.com")
        html = mail.get_body(("html",))
        assert html is not None
        assert "&lt;its&gt; circuit &amp; all" in html.get_content()
        # Without its authority the server is not believed, and nothing is said to it.
        stranger = Email(EmailConfig.model_validate({**settings, "ca_file": None, "password": PASSWORD}))
        why, _ = await attempt(stranger, _message())
        assert why is not None
        assert len(told.mailbox.messages) == 1


@pytest.mark.skipif(
    shutil.which("prometheus-alertmanager") is None,
    reason="needs Alertmanager: apt-get install prometheus-alertmanager",
)
async def test_a_real_alertmanager_takes_an_alert_and_its_end(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "alertmanager.yml"
    config.write_text(json.dumps({"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}))
    child = await asyncio.create_subprocess_exec(
        "prometheus-alertmanager",
        f"--config.file={config}",
        f"--storage.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    channel = Alertmanager(AlertmanagerConfig.model_validate({"url": url}))

    async def open_alerts() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v2/alerts") as reply:
            found: list[dict[str, Any]] = await reply.json()
            return found

    try:

        async def taken() -> bool:
            return (await attempt(channel, _message()))[0] is None

        await eventually(taken, within=20, what="it runs and takes the alert")
        (alert,) = await open_alerts()
        assert alert["labels"] == {
            "alertname": "API_DOWN", "severity": "critical", "subject": "bfl", "service": "darkroom",
        }  # fmt: skip
        assert alert["annotations"]["value"] == "45 s"
        over = _alert(state=AlertState.RESOLVED, resolved_at=datetime.now(UTC))
        assert await attempt(channel, _message("resolved", over)) == (None, False)

        async def ended() -> bool:
            return await open_alerts() == []

        await eventually(ended, within=10, what="it has ended there too")
    finally:
        await channel.close()
        child.terminate()
        await child.wait()
