"""Takes pictures of all pages of the console, in both themes and for a phone and a wide screen: `make pictures`."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

from PIL import Image
from playwright.async_api import Page, expect

from tests.support.browser import NARROW, WIDE, Stage, needed
from tests.support.pages import PROMPTS, pages

pytestmark = needed
_FOLDER = Path(os.environ.get("DARKROOM_PICTURES", "docs/pictures/console"))
_HIGHEST = 2_000
_SCREENS = {"390": NARROW, "1440": WIDE}
# Pictures that are far below are drawn only for whoever goes there, unless they are told to; none is waited for long.
_SETTLED = """Promise.race([
    new Promise((done) => setTimeout(done, 5000)),
    Promise.all([...document.images].map((one) => {
        one.loading = "eager";
        return one.complete || new Promise((done) => { one.onload = one.onerror = done; });
    })),
])"""


async def _taken(page: Page, path: Path) -> int:
    await expect(page.locator("main")).to_be_visible()
    await page.evaluate(_SETTLED)
    content = await page.screenshot(full_page=True)
    await asyncio.to_thread(_kept, content, path)
    return path.stat().st_size


def _kept(content: bytes, path: Path) -> None:
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image.crop((0, 0, image.width, min(image.height, _HIGHEST))).save(path, "webp", quality=70, method=6)


async def test_pictures_of_all_pages(stage: Stage) -> None:
    paths = await pages(stage, prompts=PROMPTS, users=60, quick=False)
    _FOLDER.mkdir(parents=True, exist_ok=True)
    sign_in = paths.pop("sign-in")
    for width, viewport in _SCREENS.items():
        for theme in ("light", "dark"):
            # Nothing moves while its picture is taken.
            options = {"viewport": viewport, "color_scheme": theme, "reduced_motion": "reduce"}
            async with stage.operator(**options) as operator:
                page = await operator.open(sign_in)
                await _taken(page, _FOLDER / f"sign-in-{width}-{theme}.webp")
                await operator.sign_in()
                for name, path in paths.items():
                    await operator.open(path)
                    size = await _taken(page, _FOLDER / f"{name}-{width}-{theme}.webp")
                    print(f"{name:24} {width:>4} {theme:5} {size / 1000:6.1f} kB", flush=True)
    async with stage.operator(viewport=WIDE, color_scheme="light", locale="zh-CN") as operator:
        await operator.sign_in()
        await _taken(await operator.open("/admin"), _FOLDER / "overview-1440-zh.webp")
    taken = len(_SCREENS) * 2 * (len(paths) + 1) + 1
    assert len(list(_FOLDER.glob("*.webp"))) == taken
