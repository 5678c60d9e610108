"""The shape of a channel, and what it is given to tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict

from libs.common.database.records_monitor import AlertRecord

Event = Literal["firing", "repeated", "escalated", "resolved", "test"]
TIMEOUT_SECONDS = 15.0


class ChannelConfig(BaseModel):
    """What the rules file says of a channel. A value `$NAME` stands in the environment variable of that name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Told:
    """One alert as people are told of it.

    `console_url` and `runbook_url` are empty where there is none.
    """

    alert: AlertRecord
    value: str
    threshold: str
    console_url: str
    runbook_url: str


@dataclass(frozen=True, slots=True)
class Notification:
    """Alerts of one event that go out together. A repeat of a failed attempt has the same `id` and `created_at`."""

    id: str
    event: Event
    created_at: datetime
    alerts: Sequence[Told]

    @property
    def worst(self) -> Told:
        """The alert of the highest severity, the first of them."""
        order = ("CRITICAL", "WARNING", "INFO")
        return min(self.alerts, key=lambda told: order.index(told.alert.severity.value))

    @property
    def subject(self) -> str:
        """All of it in a line."""
        first = self.worst.alert
        about = f" {first.subject}" if first.subject else ""
        more = f" and {len(self.alerts) - 1} more" if len(self.alerts) > 1 else ""
        word = {"resolved": "RESOLVED", "test": "TEST"}.get(self.event, first.severity.value)
        escalated = " not acknowledged:" if self.event == "escalated" else ""
        return f"[{word}]{escalated} {first.type}{about}{more}"


class ChannelFailed(Exception):
    """The channel did not take a notification. `is_hopeless`: a repeat will not help."""

    def __init__(self, why: str, *, is_hopeless: bool = False) -> None:
        super().__init__(why)
        self.is_hopeless = is_hopeless


class Channel(ABC):
    """Tells people. A kind of channel is one file of this package with a class under `@channel("kind")`."""

    config: ClassVar[type[ChannelConfig]]

    def __init__(self, config: Any) -> None:
        """Take what `config` has made of the rules file."""
        self._config = config

    @abstractmethod
    async def send(self, notification: Notification) -> None:
        """Tell, within TIMEOUT_SECONDS. ChannelFailed, or an error of the network's, where it was not taken."""

    async def close(self) -> None:
        """Close its connections. One that keeps none has nothing to do."""
        return


def event_of(word: str) -> Event:
    """The event of a row."""
    return cast("Event", word)
