"""The tests' side of the simulated providers: behaviour, and the ledger of bills."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any
from urllib.parse import urlencode

import aiohttp
from PIL import Image

from bench.imaging.pictures import opened
from sandbox.simulators import CONTROL

FAILS = [{"operation": "result", "kind": "failed"}]
"""The provider reports that the task failed."""
REFUSES = [{"operation": "result", "kind": "moderated"}]
"""The provider's moderation refuses the result."""


def simulated(prompt: str, **behaviour: Any) -> str:
    """A prompt with a directive: the simulator behaves so for this request alone."""
    return f"{prompt} [sim {json.dumps(behaviour)}]"


class Simulator:
    """The simulators' control routes."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def bills(self, prompt: str | None = None) -> list[dict[str, Any]]:
        """The ledger, or the bills for one prompt."""
        ledger = await self._call("GET", "ledger")
        return [bill for bill in ledger["bills"] if prompt in (None, bill["prompt"])]

    async def checks(self) -> int:
        """How often tasks were checked."""
        return int((await self._call("GET", "ledger"))["checks"])

    async def peaks(self) -> dict[str, int]:
        """By vendor, and for `all` of them, how many tasks have run at once at the most."""
        found: dict[str, int] = (await self._call("GET", "ledger"))["peaks"]
        return found

    async def pictures(self, prompt: str) -> list[str]:
        """The SHA-256 of the pictures that came with the last request of that prompt, in hexadecimal."""
        return [picture["sha256"] for picture in await self._pictures(prompt)]

    async def images(self, prompt: str) -> list[Image.Image]:
        """The pictures themselves."""
        return [opened(b64decode(picture["content"])) for picture in await self._pictures(prompt)]

    async def _pictures(self, prompt: str) -> list[dict[str, str]]:
        found = await self._call("GET", f"pictures?{urlencode({'prompt': prompt})}")
        pictures: list[dict[str, str]] = found["pictures"]
        return pictures

    async def cancelled(self, prompt: str) -> list[bool]:
        """Whether the task for that prompt was cancelled; empty where there is none."""
        found = (await self._call("GET", "ledger"))["cancelled"]
        return [found[prompt]] if prompt in found else []

    async def behave(self, **behaviour: Any) -> None:
        """Behave so for all requests without a directive of their own."""
        await self._call("PUT", "behaviour", behaviour)

    async def forget(self) -> None:
        """Empty ledger, no tasks, no faults."""
        await self._call("DELETE", "world")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.url}{CONTROL}/{path}", json=body, raise_for_status=True) as reply,
        ):
            return await reply.json()
