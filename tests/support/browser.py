"""A real browser before the console of a running stack. Where there is none, tests say so and how to get it."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect

from libs.common.database.engine import Database
from tests.support.alerting import Desk
from tests.support.rows import rows
from tests.support.running import Running
from tests.support.simulator import Simulator

CHROMIUM = shutil.which("chromium")
needed = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make browser")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
_SECONDS = 15
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
expect.set_options(timeout=_SECONDS * 1_000)


async def launched(playwright: Playwright) -> Browser:
    """The machine's Chromium."""
    assert CHROMIUM is not None
    return await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)


@dataclass
class Stage:
    """A stack whose console is looked at, the database behind it, and where its alerts go."""

    running: Running
    database: Database
    told: Desk
    simulator: Simulator
    browser: Browser

    @property
    def url(self) -> str:
        """Where the gateway serves HTTP."""
        return self.running.gateway_url()

    async def rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """What the database holds."""
        return await rows(self.database, sql, **parameters)

    async def row(self, sql: str, **parameters: Any) -> dict[str, Any]:
        """The one row of a query."""
        (found,) = await self.rows(sql, **parameters)
        return found

    @asynccontextmanager
    async def operator(self, **options: Any) -> AsyncIterator[Operator]:
        """Somebody at a browser of their own, not signed in. Their browser must have complained of nothing."""
        context = await self.browser.new_context(
            **{"viewport": WIDE, "locale": "en-US", "timezone_id": "Europe/Berlin", **options}
        )
        context.set_default_timeout(_SECONDS * 1_000)
        try:
            found = Operator(self, context, await context.new_page())
            found.listen()
            yield found
            assert not found.complaints, found.complaints
        finally:
            await context.close()


@dataclass
class Operator:
    """Somebody at a browser."""

    stage: Stage
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Note what the browser complains of: errors of scripts, and words against the policy."""
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        # An answer of 4xx is what some tests are about; it is no word of a script or a policy.
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    async def open(self, path: str) -> Page:
        """Go to a path of the gateway."""
        await self.page.goto(self.stage.url + path)
        return self.page

    async def sign_in(self, key: str | None = None, path: str = "/admin") -> Page:
        """Sign in, and be led to a path."""
        await self.open(path)
        await (
            self.page.get_by_label("Admin key")
            .or_(self.page.get_by_label("管理员密钥"))
            .fill(key or self.stage.running.admin_key)
        )
        await self.page.locator("main button").click()
        await self.page.wait_for_url(lambda url: "/sign-in" not in url)
        return self.page

    async def press(self, name: str) -> None:
        """Press a button of the page and wait for what it leads to."""
        async with self.page.expect_navigation():
            await self.page.get_by_role("button", name=name, exact=True).click()

    async def sees(self, text: str) -> None:
        """The page says this somewhere in its content."""
        await expect(self.page.locator("main")).to_contain_text(text)

    async def followed(self) -> None:
        """Wait until the page has begun to keep up by itself."""
        await expect(self.page.locator("body")).to_have_attribute("data-followed", "yes")

    async def violations(self) -> list[str]:
        """What axe-core finds wrong with the page, by the rules of WCAG 2.2 A and AA."""
        await self.page.evaluate(_AXE.read_text())
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
        found: Mapping[str, Any] = json.loads(
            await self.page.evaluate(f"axe.run(document, {json.dumps(options)}).then(JSON.stringify)")
        )
        return [
            f"{one['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for one in found["violations"]
            for node in one["nodes"]
        ]
