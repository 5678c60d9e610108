"""When an alert begins, is told again, escalates, keeps quiet and ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.database.records_monitor import AlertRecord, NewDelivery, SilenceRecord
from libs.common.database.states import ALERT_TRANSITIONS, AlertState
from libs.common.database.stores.alert_facts import AlertFacts, Uncertain
from libs.common.database.stores.alerts import Decision, Situation
from services.monitor.alerting import decide
from services.monitor.measures import World
from services.monitor.rules import Rules, parse

_TEXT = """
channels:
  hook: {type: webhook, url: "https://example.com/hook", secret: "whsec_YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="}
  pager: {type: webhook, url: "https://example.com/pager", secret: "whsec_YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="}
severities: {CRITICAL: [hook], WARNING: [hook]}
repeat_seconds: 3600
escalation: {after_seconds: 900, channels: [pager]}
rules:
  SUBMISSION_UNCERTAIN: {threshold: 0, severity: CRITICAL, resolve_after_seconds: 60}
  API_DOWN: {threshold: 0}
inhibitions:
  - {source: API_DOWN, targets: [SUBMISSION_UNCERTAIN]}
"""
RULES: Rules = parse(_TEXT, {})
START = datetime(2026, 11, 25, 12, tzinfo=UTC)
_SECONDS = st.sampled_from([1, 30, 61, 400, 901, 3_601])


class Story:
    """An alert's life, turn by turn."""

    def __init__(self) -> None:
        self.now = START
        self.alerts: dict[str, AlertRecord] = {}
        self.told: list[NewDelivery] = []
        self.silences: list[SilenceRecord] = []

    def turn(self, *, after_seconds: float = 1, uncertain: int = 0, down: bool = False) -> list[str]:
        """Evaluate; the events that are told, with their channels."""
        self.now += timedelta(seconds=after_seconds)
        facts = AlertFacts(uncertain=[Uncertain("bfl", uncertain, ["gen_1"])] if uncertain else [])
        world = World(down={"adapter:bfl": (5.0, "x")} if down else {})
        silences = [silence for silence in self.silences if silence.until > self.now]
        found: Decision = decide(Situation(self.now, facts, self.open(), silences), RULES, world)
        for alert in found.alerts:
            before = self.alerts.get(alert.id)
            if before is not None and before.state is not alert.state:
                assert alert.state in ALERT_TRANSITIONS[before.state]
            self.alerts[alert.id] = alert
        self.told += found.deliveries
        return [f"{told.event} {told.channel}" for told in found.deliveries]

    def open(self) -> Sequence[AlertRecord]:
        """Those that have not ended."""
        return [alert for alert in self.alerts.values() if alert.state is not AlertState.RESOLVED]

    def change(self, **fields: Any) -> None:
        """What somebody did to the one that is open."""
        (alert,) = self.open()
        self.alerts[alert.id] = replace(alert, **fields)


def test_it_is_told_once_and_again_after_its_interval_and_when_it_ends() -> None:
    story = Story()
    assert story.turn(uncertain=1) == ["firing hook"]
    assert story.turn(uncertain=2, after_seconds=60) == []
    assert story.alerts[next(iter(story.alerts))].value == 2
    assert story.turn(uncertain=2, after_seconds=900) == ["escalated pager"]
    assert story.turn(uncertain=2, after_seconds=3_500) == []
    assert story.turn(uncertain=2, after_seconds=101) == ["repeated hook"]
    assert story.turn(after_seconds=30) == [], "it may come back at once"
    assert story.turn(after_seconds=31) == ["resolved hook"]
    assert story.turn() == []
    assert story.turn(uncertain=1) == ["firing hook"], "another one"
    assert len(story.alerts) == 2


def test_one_that_comes_back_within_its_patience_never_ended() -> None:
    story = Story()
    story.turn(uncertain=1)
    assert [story.turn(after_seconds=50), story.turn(uncertain=1), story.turn(after_seconds=50)] == [[], [], []]
    assert len(story.alerts) == 1


def test_one_that_somebody_has_taken_is_neither_repeated_nor_escalated() -> None:
    story = Story()
    story.turn(uncertain=1)
    story.change(state=AlertState.ACKNOWLEDGED, acknowledged_at=story.now)
    assert story.turn(uncertain=1, after_seconds=10_000) == []
    assert story.turn(after_seconds=61) == ["resolved hook"]


def test_a_silence_keeps_quiet_and_what_outlives_it_is_told() -> None:
    story = Story()
    until = START + timedelta(hours=1)
    story.silences = [SilenceRecord("sil_1", "SUBMISSION_UNCERTAIN", "", "planned", "me", START, until)]
    assert story.turn(uncertain=1) == []
    (alert,) = story.open()
    assert "planned" in (alert.quiet_because or "")
    assert story.turn(uncertain=1, after_seconds=3_600) == ["firing hook"]


def test_one_that_began_and_ended_in_a_silence_is_never_told() -> None:
    story = Story()
    story.silences = [SilenceRecord("sil_1", "", "bfl", "planned", "me", START, START + timedelta(hours=1))]
    assert [story.turn(uncertain=1), story.turn(after_seconds=61)] == [[], []]
    assert [alert.state for alert in story.alerts.values()] == [AlertState.RESOLVED]


def test_what_another_explains_keeps_quiet_for_the_same_subject() -> None:
    story = Story()
    assert story.turn(uncertain=1, down=True) == ["firing hook"]
    quiet = {alert.type: alert.quiet_because for alert in story.open()}
    assert quiet == {"API_DOWN": None, "SUBMISSION_UNCERTAIN": "explained by API_DOWN of bfl"}
    assert sorted(story.turn(uncertain=1)) == ["firing hook", "resolved hook"]


@given(st.lists(st.tuples(_SECONDS, st.integers(0, 2), st.booleans(), st.booleans()), max_size=40))
def test_whatever_happens_each_alert_begins_once_ends_once_and_is_not_told_too_often(
    turns: list[tuple[int, int, bool, bool]],
) -> None:
    story = Story()
    for seconds, uncertain, down, takes in turns:
        story.turn(after_seconds=seconds, uncertain=uncertain, down=down)
        keys = [(alert.type, alert.subject) for alert in story.open()]
        assert len(keys) == len(set(keys))
        for alert in story.open():
            if takes and alert.state is AlertState.FIRING:
                story.alerts[alert.id] = replace(alert, state=AlertState.ACKNOWLEDGED, acknowledged_at=story.now)
    for alert in story.alerts.values():
        events = [told.event for told in story.told if told.alert_id == alert.id]
        assert events.count("firing") <= 1
        assert events.count("resolved") <= 1
        assert events.count("escalated") <= 1
        if "resolved" in events:
            assert events[0] == "firing"
            assert events[-1] == "resolved"
        assert ("firing" in events) == (alert.notified_at is not None)
        lived = (alert.resolved_at or story.now) - alert.started_at
        assert events.count("repeated") <= lived.total_seconds() / 3_600


@pytest.mark.parametrize("removed", ["SUBMISSION_UNCERTAIN"])
def test_an_alert_whose_rule_is_gone_ends(removed: str) -> None:
    story = Story()
    story.turn(uncertain=1)
    others = parse("rules: {API_DOWN: {threshold: 0}}", {})
    found = decide(Situation(story.now, AlertFacts(), story.open(), []), others, World())
    assert [(alert.type, alert.state) for alert in found.alerts] == [(removed, AlertState.RESOLVED)]
