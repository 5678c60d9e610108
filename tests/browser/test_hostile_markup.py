"""Whatever people and providers write is shown as they wrote it, and never run."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.support.browser import Operator, Stage, needed
from tests.support.pages import pages

pytestmark = [needed, pytest.mark.slow]
_MARKUP = """<img src=x onerror="document.title='run'"><script>document.title='run'</script>'"><svg/onload=alert(1)>"""


async def test_markup_is_text_on_every_page(stage: Stage, operator: Operator) -> None:
    dialogs: list[str] = []
    operator.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    paths = await pages(stage, prompts=("an owl",), users=1, text=_MARKUP)
    shown = set()
    for name, path in paths.items():
        page = await operator.open(path)
        await expect(page.locator("main")).to_be_visible()
        if await page.locator("body[data-stream]").count():
            await operator.followed()
        assert await page.title() != "run"
        assert not await page.locator("main img[src='x'], main script, main svg[onload]").count(), name
        if "<img src=x" in await page.locator("main").inner_text():
            shown.add(name)
    assert {"overview", "generations", "generation", "batch", "error", "errors", "alert", "alerts"} <= shown
    assert {"experiment", "experiments", "generation-uncertain"} <= shown
    assert not dialogs
