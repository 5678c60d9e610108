"""The adapters there are, by name. A file in this package with a class under `@adapter("name")` is enough to be one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import libs.common.adapters as package
from libs.common.adapters.base import Adapter

AdapterClass = TypeVar("AdapterClass", bound=type[Adapter])

_registered: dict[str, type[Adapter]] = {}


def adapter(name: str) -> Callable[[AdapterClass], AdapterClass]:
    """Register a class under the name that the catalog uses. ValueError where the name is taken."""

    def register(found: AdapterClass) -> AdapterClass:
        if name in _registered:
            raise ValueError(f"two adapters are called {name!r}")
        found.name = name
        _registered[name] = found
        return found

    return register


@cache
def adapters() -> dict[str, type[Adapter]]:
    """All adapters by name."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return dict(_registered)
