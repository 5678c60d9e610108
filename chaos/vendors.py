"""The simulated vendors as chaos sees them: their ledger, and how they behave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import aiohttp

from chaos.chance_faults import provider_behaviour
from chaos.money import Bill
from sandbox.simulators import CONTROL

_TRIES, _PAUSE_SECONDS = 300, 0.1


class Vendors:
    """Their control routes.

    Args:
        url: of the process of the simulators.
        seed: of their chance.
    """

    def __init__(self, url: str, *, seed: int) -> None:
        self._url = f"{url}{CONTROL}"
        self._seed = seed

    async def bills(self) -> list[Bill]:
        """The ledger. Raises aiohttp.ClientError where they are away."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self._url}/ledger", raise_for_status=True) as reply,
        ):
            found: list[Bill] = (await reply.json())["bills"]
            return found

    async def refuse(self, refused: Mapping[str, int]) -> None:
        """Have them refuse reads, by vendor with an HTTP status, and show their usual faults."""
        await self._behave(provider_behaviour(self._seed, refused))

    async def behave_well(self) -> None:
        """Have them accept and answer all that is new."""
        await self._behave({"active_tasks_limit": 100_000})

    async def _behave(self, behaviour: Mapping[str, Any]) -> None:
        """Set their behaviour. They may still be starting."""
        async with aiohttp.ClientSession() as session:
            for _ in range(_TRIES):
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with session.put(f"{self._url}/behaviour", json=behaviour, raise_for_status=True):
                        return
                await asyncio.sleep(_PAUSE_SECONDS)
        raise RuntimeError("the simulated vendors do not come back")
