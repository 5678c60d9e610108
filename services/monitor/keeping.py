"""Errors on their way into the log: the same for those that come by RPC and for the monitor's own."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from darkroom.monitor.v1 import monitor_pb2

from libs.common.database.stores.errors import ErrorStore
from services.monitor.error_log import new_errors

log = structlog.get_logger()


class Keeping:
    """Keeps errors.

    Args:
        store: has them for good.
    """

    def __init__(self, store: ErrorStore) -> None:
        self._store = store

    async def keep(self, entries: Sequence[monitor_pb2.ErrorEntry]) -> int:
        """Keep them, each once; how many were new. InvalidRequest for what is none, and nothing is kept then."""
        errors = new_errors(entries)
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
