"""Remembers generations as they ended, to find those that change afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from chaos.rows import rows
from libs.common.database.engine import Database
from libs.common.errors import GenerationError

TERMINAL = "('SUCCESS', 'FAILED', 'CANCELLED')"
_LOOK_SECONDS = 1.0
# A result that its owner deletes is shown no more, and nothing else of it changes.
_DIGEST = "md5(CAST(to_jsonb(g) - 'deleted_at' AS text)) AS digest"


class Terminal:
    """Remembers rows as they were when they were first seen ended."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, str] = {}

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            # The database may be away: part of the plan.
            with contextlib.suppress(GenerationError):
                await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Remember those that have ended since the last look."""
        found = await rows(
            self._database,
            f"SELECT id, {_DIGEST} FROM generation_requests g WHERE state IN {TERMINAL} AND id <> ALL(:ids)",
            ids=list(self._seen),
        )
        self._seen |= {row["id"]: row["digest"] for row in found}

    def forget(self, ids: Iterable[str]) -> None:
        """Forget rows that chaos itself has changed; they are remembered anew as they are now."""
        for generation_id in ids:
            self._seen.pop(generation_id, None)

    async def changed(self) -> list[str]:
        """The ids of rows that are not what they were when they ended."""
        found = await rows(self._database, f"SELECT id, {_DIGEST} FROM generation_requests g")
        now = {row["id"]: row["digest"] for row in found}
        return [identifier for identifier, digest in self._seen.items() if now.get(identifier) != digest]
