"""The alert rules: one YAML file that says what wakes whom, checked as a whole at the start and at each reload."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from libs.common.database.states import AlertSeverity
from libs.common.validation.common import violations
from libs.common.watched import FileFault, Watched, text_of, yaml_of
from services.monitor.channels.base import Channel
from services.monitor.channels.registry import channel_kinds

Name = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,99}$")]
ChannelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]


class RulesFault(FileFault):
    """The rules cannot be used."""

    what = "file of alert rules"


class RuleType(StrEnum):
    """What a rule holds against its threshold, and what it is about."""

    ERROR_RATE_HIGH = "ERROR_RATE_HIGH"
    """By provider: the share of generations that failed, without those by a fault of the caller's."""
    TASK_TIMEOUT = "TASK_TIMEOUT"
    """By provider: the share of tasks that were not ended in time."""
    RETRIES_EXCEEDED = "RETRIES_EXCEEDED"
    """By provider: how often one generation was sent, asked about or stored again."""
    API_DOWN = "API_DOWN"
    """By provider: for how many seconds its circuit has been open, or it does not answer."""
    DATABASE_DOWN = "DATABASE_DOWN"
    """For how many seconds Postgres has not answered."""
    STORAGE_DOWN = "STORAGE_DOWN"
    """For how many seconds object storage has not answered, or has taken, returned or removed no object."""
    SERVICE_DOWN = "SERVICE_DOWN"
    """By service of ours: for how many seconds it has not been ready."""
    QUEUE_STALLED = "QUEUE_STALLED"
    """By provider: for how many seconds the oldest generation has waited to be sent."""
    BUDGET_SPENT = "BUDGET_SPENT"
    """By provider and by API key: the share of the day's or the month's budget that is spent."""
    SUBMISSION_UNCERTAIN = "SUBMISSION_UNCERTAIN"
    """By provider: how many submits wait for an operator to say what became of them."""
    TASKS_MISSING = "TASKS_MISSING"
    """By provider: how many tasks in progress it does not know any more."""
    CREDENTIALS_REFUSED = "CREDENTIALS_REFUSED"
    """By provider: for how many seconds it has refused our credentials for checks."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Entry):
    """When there is an alert, and who is told. Durations are in seconds."""

    name: Name
    type: RuleType
    threshold: float = Field(ge=0)
    """It holds for what is more."""
    window_seconds: int = Field(default=3_600, ge=60, le=86_400)
    minimum_sample: int = Field(default=1, ge=1)
    severity: AlertSeverity = AlertSeverity.WARNING
    channels: tuple[ChannelName, ...] | None = None
    """None: those of its severity."""
    subjects: tuple[str, ...] = ()
    """What alone it is about, for instance some providers; empty: all."""
    enabled: bool = True
    repeat_seconds: float | None = Field(default=None, gt=0)
    resolve_after_seconds: float = Field(default=0.0, ge=0)
    """How long the condition must be gone before the alert is resolved."""
    runbook_url: str = ""


class Inhibition(_Entry):
    """While an alert of `source` is open, those of `targets` are kept and nobody is told."""

    source: Name
    targets: tuple[Name, ...]
    same_subject: bool = True


class Escalation(_Entry):
    """Who is told when nobody takes a CRITICAL alert in time."""

    after_seconds: float = Field(default=900.0, gt=0)
    channels: tuple[ChannelName, ...] = ()
    """Empty: those that were told at first."""


class _File(_Entry):
    channels: dict[ChannelName, Any] = {}
    severities: dict[AlertSeverity, tuple[ChannelName, ...]] = {}
    rules: dict[Name, Any]
    inhibitions: tuple[Inhibition, ...] = ()
    escalation: Escalation = Escalation()
    evaluate_seconds: float = Field(default=15.0, ge=0.1, le=600)
    group_wait_seconds: float = Field(default=5.0, ge=0, le=600)
    repeat_seconds: float = Field(default=14_400.0, gt=0)
    runbook_base_url: str = ""
    """Before `#` and a rule's name in small letters it leads to what to do about it."""


class Rules:
    """Rules and channels that fit together. Made by `parse` and `load` alone.

    Attributes:
        rules: by name.
        channels: those that are configured, by name.
        unset: of the others, the environment variables that are missing.
        types: the kind of each, set up or not.
    """

    def __init__(self, file: _File, rules: dict[str, Rule]) -> None:
        self.file = file
        self.rules = rules
        self.channels: dict[str, Channel] = {}
        self.unset: dict[str, list[str]] = {}
        self.types: dict[str, str] = {}

    def channels_of(self, severity: AlertSeverity, named: tuple[str, ...] | None = None) -> list[str]:
        """Where alerts of a severity go to, or those named; as far as they are configured."""
        wanted = self.file.severities.get(severity, ()) if named is None else named
        return [name for name in wanted if name in self.channels]

    def runbook_url(self, name: str) -> str:
        """What to do about alerts of a rule; empty where nobody has said."""
        rule, base = self.rules.get(name), self.file.runbook_base_url
        return (rule.runbook_url if rule else "") or (f"{base}#{name.lower()}" if base and rule else "")

    def repeat_seconds(self, name: str) -> float:
        """After how long an open alert of a rule is told again."""
        rule = self.rules.get(name)
        return (rule.repeat_seconds if rule else None) or self.file.repeat_seconds


def _faults(error: ValidationError, prefix: str, kind: type[BaseModel]) -> list[str]:
    found = violations(error, prefix=prefix, known=kind.model_fields)
    return [f"{violation.field or 'the file'}: {violation.description}" for violation in found]


def _from_environment(value: Any, environment: Mapping[str, str], missing: list[str]) -> Any:
    """`$NAME` is what the variable of that name holds."""
    if isinstance(value, str) and value.startswith("$"):
        if not environment.get(value[1:]):
            missing.append(value[1:])
            return None
        return environment[value[1:]]
    if isinstance(value, list):
        return [_from_environment(item, environment, missing) for item in value]
    return value


def _add_channel(rules: Rules, name: str, entry: object, environment: Mapping[str, str], faults: list[str]) -> None:
    path = f"channels.{name}"
    kind = channel_kinds().get(str(entry.get("type"))) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or kind is None:
        faults.append(f"{path}.type: must be one of {', '.join(sorted(channel_kinds()))}")
        return
    rules.types[name] = str(entry["type"])
    missing: list[str] = []
    values = {key: _from_environment(value, environment, missing) for key, value in entry.items() if key != "type"}
    given = {key: value for key, value in values.items() if value is not None and value != [None]}
    try:
        rules.channels[name] = kind(kind.config.model_validate(given))
    except ValidationError as error:
        if missing:
            # What it cannot do without stands in no variable: nobody has set it up.
            rules.unset[name] = sorted(missing)
        else:
            faults += _faults(error, path, kind.config)


def _rule_of(name: str, entry: object, faults: list[str]) -> Rule | None:
    try:
        return Rule.model_validate({"type": name, "name": name, **entry} if isinstance(entry, dict) else entry)
    except ValidationError as error:
        faults += _faults(error, f"rules.{name}", Rule)
        return None


def _unknown_names(file: _File, rules: Mapping[str, Rule]) -> list[str]:
    named = {
        **{f"severities.{severity}": names for severity, names in file.severities.items()},
        **{f"rules.{rule.name}.channels": rule.channels or () for rule in rules.values()},
        "escalation.channels": file.escalation.channels,
    }
    faults = [
        f"{path}: there is no channel {name!r}"
        for path, names in named.items()
        for name in names
        if name not in file.channels
    ]
    for index, inhibition in enumerate(file.inhibitions):
        faults += [
            f"inhibitions[{index}]: there is no rule {name!r}"
            for name in (inhibition.source, *inhibition.targets)
            if name not in file.rules
        ]
    return faults


def parse(text: str, environment: Mapping[str, str] = os.environ) -> Rules:
    """The rules that a YAML text holds. RulesFault with every fault where it holds none."""
    content = yaml_of(text, RulesFault)
    if isinstance(content, dict) and "runbook_base_url" in content:
        content["runbook_base_url"] = _from_environment(content["runbook_base_url"], environment, []) or ""
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise RulesFault(_faults(error, "", _File)) from error
    faults: list[str] = []
    found = {name: rule for name, entry in file.rules.items() if (rule := _rule_of(name, entry, faults))}
    rules = Rules(file, found)
    for name, entry in file.channels.items():
        _add_channel(rules, name, entry, environment, faults)
    faults += _unknown_names(file, found)
    if faults:
        raise RulesFault(faults)
    return rules


class RulesHolder(Watched[Rules]):
    """The rules in force."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lambda found: parse(text_of(found, RulesFault)))
