"""Signing in to the console: an admin key for a cookie, and the tokens without which no form counts.

A cookie alone opens pages; what changes anything needs the token that only our pages know as well.
Source: OWASP, Cross-Site Request Forgery Prevention and Session Management cheat sheets.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from libs.common.api_keys import hash_of
from libs.common.database.stores.console_sessions import ConsoleSessionStore
from libs.common.errors import ErrorCode, GenerationError
from services.gateway.access import Caller, permission_denied
from services.gateway.authentication import Authentication

_TOKEN_LIMIT = 100
_KNOWN_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in. `prefix`: the beginning of their key."""

    token: str
    caller: Caller
    prefix: str


@dataclass(frozen=True, slots=True)
class _Known:
    session: Session
    until: float


class Sessions:
    """Knows who is signed in.

    Args:
        store: keeps sessions by the hashes of their tokens.
        authentication: knows keys.
        secret: what tokens are hashed with.
        seconds: how long a session lasts.
        idle_seconds: how long one lasts that nobody uses.
        cache_seconds: how long one that was good is believed without a look.
    """

    def __init__(
        self,
        store: ConsoleSessionStore,
        authentication: Authentication,
        *,
        secret: str,
        seconds: float,
        idle_seconds: float,
        cache_seconds: float,
    ) -> None:
        self._store = store
        self._authentication = authentication
        self._secret = secret
        self.seconds = seconds
        self._idle_seconds = idle_seconds
        self._cache_seconds = cache_seconds
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def sign_in(self, key: str, address: str) -> Session:
        """A new session for whoever holds an admin key.

        Raises GenerationError AUTHENTICATION_FAILED and RATE_LIMITED as for any key, PERMISSION_DENIED for one that is
        no admin's.
        """
        caller = await self._authentication.caller(key, address)
        if not caller.is_admin:
            raise permission_denied()
        token = new_token()
        await self._store.begin(self._hash(token), caller.key_id, seconds=self.seconds)
        found = await self.find(token)
        if found is None:
            raise GenerationError(ErrorCode.AUTHENTICATION_FAILED, "This API key was revoked at this moment.")
        return found

    async def find(self, token: str) -> Session | None:
        """Who has this cookie; None for nobody."""
        if not token or len(token) > _TOKEN_LIMIT or not token.isascii():
            return None
        known = self._known.get(token)
        if known is not None and time.monotonic() < known.until:
            return known.session
        self._known.pop(token, None)
        hashed = self._hash(token)
        record = await self._store.find(hashed, idle_seconds=self._idle_seconds)
        if record is None:
            return None
        await self._store.touch(hashed)
        session = Session(token, Caller.of(record), record.prefix)
        self._known[token] = _Known(session, time.monotonic() + self._cache_seconds)
        while len(self._known) > _KNOWN_LIMIT:
            self._known.popitem(last=False)
        return session

    async def end(self, token: str) -> None:
        """Sign out: the cookie is worth nothing any more, wherever else it lies."""
        self._known.pop(token, None)
        await self._store.end(self._hash(token))

    async def forget(self) -> bool:
        """Forget those that are over. A turn of a loop."""
        await self._store.forget(idle_seconds=self._idle_seconds)
        return False

    def form_token(self, cookie: str) -> str:
        """What forms of whoever has this cookie carry."""
        return hash_of(f"form {cookie}", self._secret).hex()

    def is_form_token(self, given: str, cookie: str) -> bool:
        """Whether a form came from one of our pages, shown to whoever has this cookie."""
        return bool(cookie) and hmac.compare_digest(given.encode(), self.form_token(cookie).encode())

    def _hash(self, token: str) -> bytes:
        return hash_of(f"console {token}", self._secret)


def new_token() -> str:
    """A cookie of 256 bits."""
    return secrets.token_urlsafe(32)
