"""Semaphores by key: how many operations of one key, or of one owner, run at once."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from weakref import WeakValueDictionary

from libs.common.rpc.shares import Holder


class KeyedSemaphores:
    """Semaphores that are created when they are first used, and deleted when no operation uses them."""

    def __init__(self) -> None:
        self._semaphores: WeakValueDictionary[tuple[Hashable, int], asyncio.Semaphore] = WeakValueDictionary()

    def get(self, key: Hashable, at_once: int) -> asyncio.Semaphore:
        """Return the semaphore of a key that lets `at_once` operations run."""
        semaphore = self._semaphores.get((key, at_once))
        if semaphore is None:
            semaphore = self._semaphores[key, at_once] = asyncio.Semaphore(at_once)
        return semaphore


def owner_or_key(holder: Holder) -> Holder:
    """Return whose operations are limited together: those of all keys of an owner, else those of the key."""
    return Holder(owner=holder.owner) if holder.owner else Holder(key=holder.key)
