"""From an API key to its holder: looked up once in a while, and slow for whoever guesses.

A key that is good is never slowed, wherever it comes from, so that nobody can shut others out by guessing.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from libs.common import metrics
from libs.common.api_keys import KEY_LIMIT, PREFIX_LENGTH, hash_of, prefix_of
from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.credentials import AUTHORIZATION, bearer, is_keyless, metadata_of
from libs.common.rpc.interceptors import Before, Call
from libs.common.rpc.shares import network_of, network_of_peer
from services.gateway.access import Caller, admit_caller, check_role

log = structlog.get_logger()
API_KEY_HEADER = "x-api-key"
_KNOWN_LIMIT = 10_000
_GUESSERS_LIMIT = 10_000
_FREE_GUESSES = 5
_WINDOW_SECONDS = 60.0
_DELAYED_LIMIT = 50


class _Known(NamedTuple):
    caller: Caller
    until: float
    expires_at: float


class Guesses:
    """Failed tries by address, so that the next ones are answered later and later, and too many at once not at all."""

    def __init__(self, longest_delay_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._longest_delay_seconds = longest_delay_seconds
        self._now = now
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._delayed: dict[str, int] = {}

    async def failed(self, address: str) -> None:
        """Note one more, and answer once it has waited. RATE_LIMITED where too many from there wait already."""
        count, since = self._failures.pop(address, (0, self._now()))
        if self._now() - since > _WINDOW_SECONDS:
            count, since = 0, self._now()
        self._failures[address] = (count + 1, since)
        while len(self._failures) > _GUESSERS_LIMIT:
            self._failures.popitem(last=False)
        delay = self.delay(count + 1)
        if delay:
            await self._wait(address, delay)

    def delay(self, count: int) -> float:
        """How long the answer to the failure of that number within a minute is kept back, in seconds."""
        if count <= _FREE_GUESSES:
            return 0.0
        return min(self._longest_delay_seconds, 0.1 * 2.0 ** min(10, count - _FREE_GUESSES - 1))

    async def _wait(self, address: str, seconds: float) -> None:
        if self._delayed.get(address, 0) >= _DELAYED_LIMIT:
            raise GenerationError(
                ErrorCode.RATE_LIMITED,
                "Too many wrong API keys from this address.",
                retry_after_seconds=_WINDOW_SECONDS,
            )
        self._delayed[address] = self._delayed.get(address, 0) + 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._delayed[address] -= 1
            if not self._delayed[address]:
                del self._delayed[address]


class Authentication:
    """Knows callers by their keys.

    Args:
        keys: where keys are kept.
        secret: what they are hashed with.
        cache_seconds: how long a key that was good is believed without a look.
        delay_seconds: the longest that the answer to a wrong one is kept back.
    """

    def __init__(self, keys: ApiKeyStore, *, secret: str, cache_seconds: float, delay_seconds: float) -> None:
        self._keys = keys
        self._secret = secret
        self._cache_seconds = cache_seconds
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._used: set[str] = set()
        self._standing_in: dict[str, Caller] = {}
        self._guesses = Guesses(delay_seconds)

    async def caller(self, given: str, address: str) -> Caller:
        """The holder of the key `given`, which came from `address`.

        Raises GenerationError AUTHENTICATION_FAILED without saying what is wrong with the key, RATE_LIMITED for who
        guesses too much at once, and SERVICE_UNAVAILABLE where keys cannot be looked up.
        """
        if not given:
            metrics.AUTHENTICATIONS.labels("missing").inc()
            raise GenerationError(
                ErrorCode.AUTHENTICATION_FAILED, "An API key is needed: send authorization: Bearer <key>, or x-api-key."
            )
        if (stood_for := self._standing_in.get(given)) is not None:
            return stood_for
        known = await self._find(given)
        if known is None:
            metrics.AUTHENTICATIONS.labels("refused").inc()
            await self._guesses.failed(network_of(address))
            raise GenerationError(
                ErrorCode.AUTHENTICATION_FAILED, "This API key is not valid: it is unknown, expired or revoked."
            )
        metrics.AUTHENTICATIONS.labels("known").inc()
        self._used.add(known.caller.key_id)
        return known.caller

    @contextmanager
    def standing_in(self, caller: Caller) -> Iterator[str]:
        """A key that stands for the caller's own, which nobody has any more, for one call within this process."""
        given = secrets.token_urlsafe(32)
        self._standing_in[given] = caller
        try:
            yield given
        finally:
            del self._standing_in[given]

    def forget(self, key_id: str) -> None:
        """Look this key up anew the next time."""
        for digest in [digest for digest, known in self._known.items() if known.caller.key_id == key_id]:
            del self._known[digest]

    async def note_use(self) -> bool:
        """Write down which keys were used since the last time. A turn of a loop."""
        used, self._used = self._used, set()
        if used:
            await self._keys.touch(sorted(used))
        return False

    async def _find(self, given: str) -> _Known | None:
        # A header may hold bytes that are no text; no key does.
        if not PREFIX_LENGTH < len(given) <= KEY_LIMIT or not given.isascii() or not given.isprintable():
            return None
        digest = hash_of(given, self._secret)
        known = self._known.get(digest)
        if known is None or time.monotonic() >= known.until or time.time() >= known.expires_at:
            known = await self._look_up(given, digest)
        return known

    async def _look_up(self, given: str, digest: bytes) -> _Known | None:
        self._known.pop(digest, None)
        record = await self._keys.find(prefix_of(given))
        if record is None or not hmac.compare_digest(bytes(record.key_hash), digest) or not record.is_valid:
            return None
        expires_at = record.expires_at.timestamp() if record.expires_at else float("inf")
        known = _Known(Caller.of(record), time.monotonic() + self._cache_seconds, expires_at)
        self._known[digest] = known
        while len(self._known) > _KNOWN_LIMIT:
            self._known.popitem(last=False)
        return known


def key_in(headers: Mapping[str, str]) -> str:
    """The API key in headers or metadata, by lower-case name; empty where there is none."""
    return bearer(headers.get(AUTHORIZATION, "")) or headers.get(API_KEY_HEADER, "").strip()


class KeysOnly(Before):
    """Lets in holders of valid keys, and admins alone to what is for admins. Health and reflection are open."""

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication

    async def before(self, call: Call) -> None:
        """See the class."""
        if not is_keyless(call.method):
            caller = await self._authentication.caller(key_in(metadata_of(call)), network_of_peer(call.context.peer()))
            check_role(caller, call.method)
            admit_caller(caller)
