"""The adapters in use: one instance for each provider account of the catalog, made when it is first needed."""

from __future__ import annotations

import asyncio

from libs.common.adapters.base import Adapter
from libs.common.adapters.http import ProviderHttp
from libs.common.adapters.registry import adapters
from libs.common.catalog import CatalogHolder, Provider


class Accounts:
    """Gives the adapter of a provider account as the catalog in force describes it."""

    def __init__(self, catalog: CatalogHolder) -> None:
        self.catalog = catalog
        self._made: dict[str, tuple[Provider, Adapter]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def adapter(self, provider: Provider) -> Adapter:
        """The adapter of an account. GenerationError AUTHENTICATION_FAILED where its credentials are not set."""
        known = self._made.get(provider.id)
        if known is not None and known[0] == provider:
            return known[1]
        made = _make(provider)
        self._made[provider.id] = (provider, made)
        if known is not None:
            self._close_later(known[1], provider)
        return made

    def _close_later(self, replaced: Adapter, provider: Provider) -> None:
        """Calls under way on the replaced one may end first."""

        async def close() -> None:
            await asyncio.sleep(provider.limits.submit_timeout_seconds)
            await replaced.http.close()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections."""
        for task in self._closing:
            task.cancel()
        for _, made in self._made.values():
            await made.http.close()


def _make(provider: Provider) -> Adapter:
    kind = adapters()[provider.adapter]
    credentials = provider.secrets()
    http = ProviderHttp(
        base_url=str(provider.base_url),
        headers=lambda: kind.headers(credentials),
        secrets=(*credentials.values(), *filter(None, [provider.webhook_secret()])),
        trusted_hosts=provider.api_hosts,
        submit_timeout_seconds=provider.limits.submit_timeout_seconds,
        check_timeout_seconds=provider.limits.check_timeout_seconds,
        reply_limit_bytes=kind.reply_limit_bytes,
        refine=kind.refine,
        is_accepted=kind.is_accepted,
    )
    return kind(http)
