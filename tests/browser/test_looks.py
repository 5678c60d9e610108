"""Each page: without a barrier, within the screen, within the policy, and to be read without a script."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import expect

from tests.support.browser import NARROW, WIDE, Operator, Stage, needed

pytestmark = [needed, pytest.mark.slow]
_WAYS: tuple[dict[str, Any], ...] = (
    {"viewport": WIDE, "color_scheme": "light", "locale": "en-US"},
    {"viewport": NARROW, "color_scheme": "dark", "locale": "zh-CN"},
)


async def _looked_at(operator: Operator, name: str, path: str) -> list[str]:
    await operator.open(path)
    found = [f"{name}: {violation}" for violation in await operator.violations()]
    width = await operator.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return found + ([f"{name} is {width} pixels wider than the screen"] if width > 0 else [])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", _WAYS, ids=["wide-light-en", "phone-dark-zh"])
async def test_no_page_has_a_barrier_or_is_wider_than_the_screen(
    stage: Stage, paths: dict[str, str], way: dict[str, Any]
) -> None:
    assert len(paths) == 20
    async with stage.operator(**way) as operator:
        found = await _looked_at(operator, "sign-in", paths["sign-in"])
        await operator.sign_in()
        for name, path in paths.items():
            found += await _looked_at(operator, name, path)
        assert not found, "\n".join(found)


async def test_forms_with_faults_have_no_barrier(operator: Operator) -> None:
    page = await operator.open("/admin/experiments/new")
    await page.get_by_label("Name").first.fill("x")
    await page.get_by_label("Percent of users that take part").fill("200")
    async with page.expect_navigation():
        await page.get_by_role("button", name="Keep it as a draft").last.click()
    await expect(page.locator(".fault").first).to_be_visible()
    assert not await operator.violations()


async def test_all_pages_are_read_without_a_script(stage: Stage) -> None:
    async with stage.operator(java_script_enabled=False) as operator:
        page = await operator.sign_in()
        headings = []
        for path in ("", "/generations", "/batches", "/monitoring/errors", "/monitoring/alerts", "/experiments"):
            await operator.open(f"/admin{path}")
            headings.append(await page.get_by_role("heading", level=1).inner_text())
        assert headings == ["Overview", "Generations", "Batches", "Errors", "Alerts", "Experiments"]
        await operator.open("/admin/playground?model=flux-pro")
        await page.get_by_label("Prompt").fill("without a script")
        await operator.press("Send")
        await operator.sees("without a script")


async def test_a_link_from_elsewhere_finds_who_is_signed_in(stage: Stage, operator: Operator) -> None:
    # A strict cookie stays away from the first request that another site leads to.
    page = operator.page
    await page.route(
        "http://elsewhere.example/",
        lambda route: route.fulfill(content_type="text/html", body=f'<a href="{stage.url}/admin/keys">here</a>'),
    )
    await page.goto("http://elsewhere.example/")
    await page.get_by_role("link", name="here").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Keys and quotas")
    assert page.url == f"{stage.url}/admin/keys"
