"""What the gateway does beside answering: it adds up usage, notes which keys were used, forgets old names."""

from __future__ import annotations

import structlog

from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.database.stores.intake import IntakeStore
from libs.common.errors import GenerationError
from libs.common.rpc.service import Frame
from services.gateway.authentication import Authentication

log = structlog.get_logger()
_ADD_UP_SECONDS = 5.0
_NOTE_SECONDS = 20.0
_FORGET_SECONDS = 60.0
_FORGET_LIMIT = 5_000


class Upkeep:
    """Loops of the gateway. Each of them may run on any number of replicas at once."""

    def __init__(self, keys: ApiKeyStore, intake: IntakeStore, authentication: Authentication) -> None:
        self._keys = keys
        self._intake = intake
        self._authentication = authentication

    def run_in(self, frame: Frame) -> None:
        """Let the frame run them."""
        frame.loop("usage", self._add_up, interval_seconds=_ADD_UP_SECONDS)
        frame.loop("key_use", self._authentication.note_use, interval_seconds=_NOTE_SECONDS)
        frame.on_drain(self._note_use)
        frame.loop("idempotency", self._forget_names, interval_seconds=_FORGET_SECONDS)

    async def _note_use(self) -> None:
        """A last time, for what was used since the loop has turned."""
        try:
            await self._authentication.note_use()
        except GenerationError as error:
            log.warning("use of keys was not noted", error=error)

    async def _add_up(self) -> bool:
        await self._keys.add_up()
        return False

    async def _forget_names(self) -> bool:
        return await self._intake.forget_names(_FORGET_LIMIT)
