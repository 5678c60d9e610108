"""Replaces ids by aliases, so that recordings with other ids can be compared."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from tests.differential.projection import ID


class Aliases:
    """Aliases of ids, counted by kind in the order of their first appearance: `gen#1`, `gen#2`, `batch#1`.

    Args:
        pattern: finds ids in texts; its first group is the kind.
    """

    def __init__(self, pattern: re.Pattern[str] = ID) -> None:
        self._pattern = pattern
        self._by_id: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def of(self, found: str, kind: str) -> str:
        """Return the alias of an id."""
        if found not in self._by_id:
            self._counts[kind] += 1
            self._by_id[found] = f"{kind}#{self._counts[kind]}"
        return self._by_id[found]

    def within(self, value: Any) -> Any:
        """Return a JSON value with all ids in its texts and keys replaced."""
        if isinstance(value, dict):
            return {self.within(name): self.within(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self.within(part) for part in value]
        if isinstance(value, str):
            return self._pattern.sub(lambda match: self.of(match[0], match[1]), value)
        return value
