"""Waiting for a condition with a deadline; tests never sleep for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_BETWEEN_SECONDS = 0.05


async def eventually(question: Callable[[], Awaitable[T]], *, within: float, what: str) -> T:
    """The first true answer of `question`. AssertionError with the last answer where none comes in `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = await question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}; the last answer was {answer!r}")
        await asyncio.sleep(_BETWEEN_SECONDS)
