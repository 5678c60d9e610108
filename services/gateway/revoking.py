"""Ends the streams of API keys that were revoked or have expired, on whichever replica they are open."""

from __future__ import annotations

import structlog

from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.open_streams import OpenStreams
from services.gateway.authentication import Authentication

log = structlog.get_logger()
LOOK_SECONDS = 0.5


class Revoking:
    """Looks at the keys of all open streams with one statement, and not at all while there are none.

    Args:
        keys: where keys are kept.
        authentication: forgets keys that are no longer valid.
        open_streams: the streams of this process.
    """

    def __init__(self, keys: ApiKeyStore, authentication: Authentication, open_streams: OpenStreams) -> None:
        self._keys = keys
        self._authentication = authentication
        self._open_streams = open_streams

    async def look(self) -> bool:
        """End what is to end. A turn of a loop."""
        used = self._open_streams.keys()
        if not used:
            return False
        for key_id in await self._keys.invalid(used):
            # Before its streams end, so that none is opened again.
            self._authentication.forget(key_id)
            error = GenerationError(ErrorCode.AUTHENTICATION_FAILED, "This API key was revoked or has expired.")
            self._open_streams.end(key_id, error)
            log.info("streams of an API key ended with it", key_id=key_id)
        return False
