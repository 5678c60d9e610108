"""Errors on their way into the log: the same for those that come by RPC and for the monitor's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

import structlog
from darkroom.monitor.v1 import monitor_pb2

from libs.common.database.records_monitor import NewError
from libs.common.database.stores.errors import ErrorStore
from services.monitor.error_log import new_errors
from services.monitor.fingerprints import fingerprint

log = structlog.get_logger()
_GROUPS_LIMIT = 200
_KINDS_LIMIT = 1_000


class Keeping:
    """Keeps errors.

    Args:
        store: has them for good.
    """

    def __init__(self, store: ErrorStore) -> None:
        self._store = store
        self._groups = Groups(_GROUPS_LIMIT)

    async def keep(self, entries: Sequence[monitor_pb2.ErrorEntry]) -> int:
        """Keep them, each once; how many were new. InvalidRequest for what is none, and nothing is kept then."""
        errors = [self._groups.bounded(error) for error in new_errors(entries)]
        accepted = await self._store.keep(errors)
        for error in errors:
            # Whoever searches the logs for a request finds that its error has arrived, and in which group.
            log.debug(
                "error kept",
                request_id=error.fault.request_id,
                generation_id=error.fault.generation_id or None,
                fingerprint=error.fingerprint,
            )
        return accepted


class Groups:
    """Bounds the error groups of one source and code: texts of vendors and callers may make any number.

    Args:
        limit: how many a process makes of a source and code on one day (UTC). Errors beyond those share one group.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: OrderedDict[tuple[str, str], set[str]] = OrderedDict()
        self._day = date.min

    def bounded(self, error: NewError) -> NewError:
        """The error, with the fingerprint of the shared group where there are too many of its kind."""
        today = datetime.now(UTC).date()
        if today != self._day:
            self._day = today
            self._seen.clear()
        kind = (error.fault.source, error.fault.code)
        seen = self._seen.setdefault(kind, set())
        self._seen.move_to_end(kind)
        if len(self._seen) > _KINDS_LIMIT:
            self._seen.popitem(last=False)
        if error.fingerprint not in seen and len(seen) >= self._limit:
            return replace(error, fingerprint=fingerprint(*kind, "", ""))
        seen.add(error.fingerprint)
        return error
