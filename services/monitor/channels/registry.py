"""The kinds of channel there are, by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Protocol, TypeVar

import services.monitor.channels as package
from services.monitor.channels.base import Channel, ChannelConfig


class ChannelKind(Protocol):
    """A class of channels: what its configuration is, and how one is made of it."""

    config: type[ChannelConfig]

    def __call__(self, config: ChannelConfig, /) -> Channel:
        """A channel."""


Kind = TypeVar("Kind", bound=type[Channel])
_registered: dict[str, ChannelKind] = {}


def channel(name: str) -> Callable[[Kind], Kind]:
    """Register a class under the name that the rules file uses. ValueError where the name is taken."""

    def register(kind: Kind) -> Kind:
        if name in _registered:
            raise ValueError(f"two kinds of channel are called {name!r}")
        _registered[name] = kind  # type: ignore[assignment]
        return kind

    return register


@cache
def channel_kinds() -> dict[str, ChannelKind]:
    """All kinds by name."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return dict(_registered)
