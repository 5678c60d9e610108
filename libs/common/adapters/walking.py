"""Walks through the objects of a reply's JSON within bounds, each with the objects that contain it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from libs.common.adapters.reading import parsed

DEPTH_LIMIT = 12
NODES_LIMIT = 2_000
_JSON_TEXTS_LIMIT = 256 * 1024
# Members that repeat the request, or that are no part of the description of a task.
ECHOES = frozenset({
    "input", "inputs", "request", "params", "parameters", "properties", "options", "settings", "config", "headers",
    "query", "prompt", "logs", "log", "metrics", "usage", "urls", "links", "webhook", "user", "owner", "task_info",
    "taskInfo",
})  # fmt: skip
# Members in which relays wrap the vendor's reply.
_WRAPPERS = frozenset({"data", "result", "response", "output", "task", "job", "body", "payload", "video", "image"})


@dataclass(frozen=True, slots=True)
class Place:
    """An object in a reply.

    Attributes:
        path: the objects from the body down to it, itself included.
        lists: how many lists lie between.
        asides: how many members on the path are not of the kind in which relays wrap the vendor's reply.
    """

    path: tuple[Mapping[str, Any], ...] = ()
    lists: int = 0
    asides: int = 0

    @property
    def node(self) -> Mapping[str, Any]:
        """The object itself."""
        return self.path[-1]


def walk(body: Any, skipped: frozenset[str] = ECHOES) -> Iterator[Place]:
    """The objects of a reply, the outer ones first; at most 2,000 values and 12 levels are looked at.

    Args:
        body: the reply's JSON.
        skipped: names of members that are not entered.
    """
    waiting: deque[tuple[Any, Place, int]] = deque([(body, Place(), 0)])
    looked_at, budget = 0, _Budget(_JSON_TEXTS_LIMIT)
    while waiting:
        value, above, depth = waiting.popleft()
        value = budget.decoded(value)
        if isinstance(value, dict):
            below = Place((*above.path, value), above.lists, above.asides)
            yield below
            members: Any = ((name, member) for name, member in value.items() if name not in skipped)
        elif isinstance(value, list):
            below = Place(above.path, above.lists + 1, above.asides)
            members = (("data", member) for member in value)
        else:
            continue
        aside = Place(below.path, below.lists, below.asides + 1)
        for name, member in members if depth < DEPTH_LIMIT else ():
            looked_at += 1
            if looked_at > NODES_LIMIT:
                break
            if isinstance(member, dict | list | str):
                waiting.append((member, below if name in _WRAPPERS else aside, depth + 1))


class _Budget:
    """Decodes texts that hold JSON, up to a number of characters: a relay may quote the vendor's reply as a text."""

    def __init__(self, characters: int) -> None:
        self._characters = characters

    def decoded(self, value: Any) -> Any:
        if not isinstance(value, str) or value[:1] not in {"{", "["} or len(value) > self._characters:
            return value
        self._characters -= len(value)
        found = parsed(value.encode(errors="replace"))
        return value if found is None else found
