"""The first admin key, without which nobody could make another."""

from __future__ import annotations

import structlog

from libs.common.api_keys import hash_of, key_secret, prefix_of
from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.errors import GenerationError
from libs.common.settings import Settings

log = structlog.get_logger()
FIRST_KEY_ID = "key_first"
_OWNER = "admin"


class FirstKey:
    """Lets the admin key that the settings name be valid, in the place of an earlier one of theirs."""

    def __init__(self, keys: ApiKeyStore, settings: Settings) -> None:
        self._keys = keys
        self._key = settings.admin_key.get_secret_value() if settings.admin_key else None
        self._secret = key_secret(settings)

    async def start(self) -> None:
        """Try once. A database that is away must not keep the gateway from starting."""
        try:
            await self.keep()
        except GenerationError as error:
            log.warning("the first admin key waits for the database", error=error)

    async def keep(self) -> bool:
        """Write it down, once. A turn of a loop."""
        if self._key is not None:
            hashed = hash_of(self._key, self._secret)
            await self._keys.set_first_admin(FIRST_KEY_ID, prefix=prefix_of(self._key), key_hash=hashed, owner=_OWNER)
            self._key = None
        return False
