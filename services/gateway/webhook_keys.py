"""What vendors sign their webhooks with: a secret of the environment, or keys that they publish, kept for a day."""

from __future__ import annotations

import asyncio
from time import monotonic

import aiohttp

from libs.common.catalog import Provider
from libs.common.errors import ErrorCode, GenerationError

_KEEP_SECONDS = 86_400.0
_DOUBT_SECONDS = 300.0
_TIMEOUT_SECONDS = 10.0
_LIMIT_BYTES = 256 * 1024


class WebhookKeys:
    """Gives what an account's webhooks are checked with."""

    def __init__(self) -> None:
        self._published: dict[str, tuple[str, float]] = {}
        self._lock = asyncio.Lock()

    async def secret_of(self, provider: Provider) -> str:
        """The secret, or the JWKS document of the vendor's keys.

        Raises GenerationError: AUTHENTICATION_FAILED where the variable is not set, PROVIDER_UNAVAILABLE where the
        keys cannot be fetched.
        """
        policy = provider.webhooks
        if policy is not None and policy.keys_url is not None:
            return await self._keys(str(policy.keys_url))
        secret = provider.webhook_secret()
        if not secret:
            raise GenerationError(
                ErrorCode.AUTHENTICATION_FAILED,
                f"Webhooks of {provider.id} cannot be checked: its secret is not set where the gateway runs.",
            )
        return secret

    def doubt(self, provider: Provider) -> None:
        """A signature did not fit: published keys that are not new are fetched again, should they have changed."""
        policy = provider.webhooks
        url = str(policy.keys_url) if policy is not None and policy.keys_url is not None else ""
        known = self._published.get(url)
        if known is not None and monotonic() - known[1] > _DOUBT_SECONDS:
            del self._published[url]

    async def _keys(self, url: str) -> str:
        async with self._lock:
            known = self._published.get(url)
            if known is None or monotonic() - known[1] > _KEEP_SECONDS:
                known = (await _fetch(url), monotonic())
                self._published[url] = known
            return known[0]


async def _fetch(url: str) -> str:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, raise_for_status=True) as reply:
            return (await reply.content.read(_LIMIT_BYTES)).decode()
    except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as error:
        raise GenerationError(
            ErrorCode.PROVIDER_UNAVAILABLE, "The keys that webhooks are checked with cannot be fetched."
        ) from error
