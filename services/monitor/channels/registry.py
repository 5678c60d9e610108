"""The kinds of channel there are, by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import services.monitor.channels as package
from services.monitor.channels.base import Channel

Kind = TypeVar("Kind", bound=type[Channel])
_registered: dict[str, type[Channel]] = {}


def channel(name: str) -> Callable[[Kind], Kind]:
    """Register a class under the name that the rules file uses. ValueError where the name is taken."""

    def register(kind: Kind) -> Kind:
        if name in _registered:
            raise ValueError(f"two kinds of channel are called {name!r}")
        _registered[name] = kind
        return kind

    return register


@cache
def channel_kinds() -> dict[str, type[Channel]]:
    """All kinds by name."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return dict(_registered)
