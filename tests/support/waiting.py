"""Waiting for a condition with a deadline; tests never sleep for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_BETWEEN_SECONDS = 0.05
# `within` is what it takes where nothing else runs: a test that passes never waits longer, and one that does not may
# have been kept waiting by all the others on the machine.
_PATIENCE = 3.0


async def promptly(question: Callable[[], Awaitable[T]], *, within: float, what: str) -> T:
    """As `eventually`, where that it comes within `within` seconds is what is promised."""
    return await eventually(question, within=within / _PATIENCE, what=what)


async def eventually(question: Callable[[], Awaitable[T]], *, within: float, what: str) -> T:
    """The first true answer of `question`; AssertionError where none comes, even in a few times `within` seconds."""
    deadline = time.monotonic() + within * _PATIENCE
    while True:
        answer = await question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within * _PATIENCE:.0f} s: {what}; the last answer was {answer!r}")
        await asyncio.sleep(_BETWEEN_SECONDS)
