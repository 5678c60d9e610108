"""The database is away: who tells, when, and who keeps quiet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.database.records_monitor import SilenceRecord
from libs.common.errors import ErrorCode, GenerationError
from services.monitor.board import Board, Check, Finding
from services.monitor.channels.base import Channel, ChannelConfig, ChannelFailed, Notification
from services.monitor.emergency import Emergency
from services.monitor.rules import RulesHolder

_RULES = """
channels:
  hook: {type: webhook, url: "https://example.com/hook", secret: "whsec_YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="}
severities: {CRITICAL: [hook]}
rules: {DATABASE_DOWN: {threshold: 0, severity: CRITICAL}}
"""


class DatabaseLooks(Check):
    """A database that is there or not."""

    is_away = True

    def names(self) -> Sequence[str]:
        return ["database"]

    async def look(self) -> Mapping[str, Finding]:
        if self.is_away:
            raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "The database cannot be reached.")
        return {"database": Finding("up")}


class Hook(Channel):
    """A channel that keeps what it is told."""

    config = ChannelConfig

    def __init__(self) -> None:
        self.told: list[Notification] = []
        self.fails = False

    async def send(self, notification: Notification) -> None:
        if self.fails:
            raise ChannelFailed("away too")
        self.told.append(notification)


class Scene:
    """A board, a channel and who watches."""

    def __init__(self, folder: Path) -> None:
        path = folder / "alerts.yaml"
        path.write_text(_RULES)
        self.rules, self.hook, self.looks = RulesHolder(path), Hook(), DatabaseLooks()
        self.rules.current.channels["hook"] = self.hook
        self.board = Board([self.looks])
        self.emergency = Emergency(self.board, self.rules, console_url=None)

    async def turn(self) -> None:
        await self.board.look()
        await self.emergency.look()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_the_replica_that_evaluates_tells_once_and_has_it_to_be_written(scene: Scene) -> None:
    scene.emergency.evaluates = True
    for _ in range(3):
        await scene.turn()
    (told,) = scene.hook.told
    assert told.subject == "[CRITICAL] DATABASE_DOWN"
    assert scene.emergency.untold().alerts == [], "not while it lasts"
    scene.looks.is_away = False
    await scene.turn()
    written = scene.emergency.untold()
    assert [alert.type for alert in written.alerts] == ["DATABASE_DOWN"]
    assert [(notice.channel, notice.is_delivered) for notice in written.deliveries] == [("hook", True)]
    scene.emergency.written()
    assert scene.emergency.untold().alerts == []


async def test_another_replica_waits(scene: Scene) -> None:
    for _ in range(3):
        await scene.turn()
    assert scene.hook.told == []


async def test_what_a_channel_did_not_take_is_left_to_be_delivered(scene: Scene) -> None:
    scene.emergency.evaluates, scene.hook.fails = True, True
    await scene.turn()
    await scene.turn()
    scene.looks.is_away = False
    await scene.turn()
    assert [notice.is_delivered for notice in scene.emergency.untold().deliveries] == [False]


async def test_a_planned_stop_wakes_nobody(scene: Scene) -> None:
    scene.emergency.evaluates = True
    until: Any = datetime.now(UTC) + timedelta(hours=1)
    scene.emergency.silences = [SilenceRecord("sil_1", "DATABASE_DOWN", "", "planned", "me", until, until)]
    await scene.turn()
    await scene.turn()
    assert scene.hook.told == []
    scene.looks.is_away = False
    await scene.turn()
    written = scene.emergency.untold()
    assert "planned" in (written.alerts[0].quiet_because or "")
    assert written.deliveries == []
