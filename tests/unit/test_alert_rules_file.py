"""The rules file: the shipped one is good, and each fault of another is told with its path."""

from __future__ import annotations

import pytest

from libs.common.database.states import AlertSeverity
from sandbox.plan import ROOT, SHIPPED_ALERT_RULES
from services.monitor.channels.registry import channel_kinds
from services.monitor.measures import MEASURES
from services.monitor.rules import RulesFault, RuleType, parse

_ENVIRONMENT = {
    "DARKROOM_SMTP_HOST": "mail.example.com",
    "DARKROOM_ALERT_EMAIL_FROM": "a@example.com",
    "DARKROOM_ALERT_EMAIL_TO": "b@example.com,c@example.com",
    "DARKROOM_SLACK_WEBHOOK_URL": "https://hooks.slack.example/x",
}


def test_the_shipped_file_has_each_rule_and_kind_of_channel() -> None:
    rules = parse(SHIPPED_ALERT_RULES.read_text(), _ENVIRONMENT)
    assert {rule.type for rule in rules.rules.values()} == set(RuleType) == set(MEASURES)
    assert set(rules.file.channels) == set(channel_kinds())
    assert set(rules.channels) == {"email", "slack"}
    assert rules.unset["webhook"] == ["DARKROOM_ALERT_WEBHOOK_SECRET", "DARKROOM_ALERT_WEBHOOK_URL"]
    assert rules.channels_of(AlertSeverity.CRITICAL) == ["email", "slack"]


def test_each_rule_has_a_runbook() -> None:
    text = (ROOT / "docs/runbooks.md").read_text()
    for name in parse(SHIPPED_ALERT_RULES.read_text(), {}).rules:
        assert f"\n## {name}\n" in text, name


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("rules: [", ["not YAML"]),
        ("", ["the file"]),
        ("rules: {NOTHING: {threshold: 1}}", ["rules.NOTHING.type"]),
        ("rules: {API_DOWN: {threshold: -1}}", ["rules.API_DOWN.threshold"]),
        ("rules: {API_DOWN: {threshold: 1, treshold: 2}}", ["rules.API_DOWN.treshold"]),
        ("rules: {API_DOWN: {threshold: 1, channels: [pigeon]}}", ["rules.API_DOWN.channels: there is no channel"]),
        ("channels: {a: {type: pigeon}}\nrules: {}", ["channels.a.type"]),
        ("channels: {a: {type: webhook, url: nowhere, secret: x}}\nrules: {}", ["channels.a.url", "channels.a.secret"]),
        ("channels: {a: {type: slack}}\nrules: {}", ["channels.a"]),
        ("rules: {}\ninhibitions: [{source: A, targets: [B]}]", ["inhibitions[0]: there is no rule 'A'"]),
        ("rules: {}\nseverities: {CRITICAL: [pigeon]}", ["severities.CRITICAL: there is no channel 'pigeon'"]),
    ],
)
def test_every_fault_is_told_with_its_path(text: str, faults: list[str]) -> None:
    with pytest.raises(RulesFault) as caught:
        parse(text, {})
    for fault in faults:
        assert any(found.startswith(fault) for found in caught.value.faults), caught.value.faults


def test_no_fault_shows_what_the_environment_holds() -> None:
    text = "channels: {a: {type: webhook, url: $URL, secret: $SECRET}}\nrules: {}"
    with pytest.raises(RulesFault) as caught:
        parse(text, {"URL": "https://user:hunter2@example.com", "SECRET": "whsec_hunter2"})
    assert "hunter2" not in str(caught.value)
