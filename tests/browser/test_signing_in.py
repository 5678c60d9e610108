"""Signing in and out, and what the console keeps of it."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.support.browser import Operator, Stage, needed

pytestmark = [needed, pytest.mark.slow]


async def test_an_admin_key_opens_the_page_that_was_asked_for(stage: Stage, stranger: Operator) -> None:
    page = await stranger.sign_in(path="/admin/monitoring/errors?level=ERROR")
    assert page.url == f"{stage.url}/admin/monitoring/errors?level=ERROR"
    await expect(page.get_by_role("heading", level=1)).to_have_text("Errors")
    (cookie,) = [one for one in await stranger.context.cookies() if one["name"] == "darkroom_session"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert await stage.rows("SELECT FROM audit_records WHERE action = 'session.sign_in'")


async def test_a_wrong_key_opens_nothing_and_a_clients_key_neither(stage: Stage, stranger: Operator) -> None:
    page = await stranger.open("/admin")
    made = await stage.running.new_key("a client")
    for key, words in (("drk_" + "x" * 43, "not valid"), (made.key, "for admin keys")):
        await page.get_by_label("Admin key").fill(key)
        await page.locator("main button").click()
        await expect(page.get_by_role("alert")).to_contain_text(words)
        assert "/sign-in" in page.url


async def test_who_signs_out_is_out_on_the_server_too(stage: Stage, operator: Operator) -> None:
    cookies = [one for one in await operator.context.cookies() if one["name"] == "darkroom_session"]
    before = await stage.row("SELECT count(*) AS sessions FROM console_sessions")
    await operator.press("Sign out")
    await operator.sees("You are signed out.")
    after = await stage.row("SELECT count(*) AS sessions FROM console_sessions")
    assert after["sessions"] == before["sessions"] - 1
    # The cookie as it was, handed in once more.
    (found,) = cookies
    await operator.context.add_cookies(
        [{"name": found["name"], "value": found["value"], "domain": found["domain"], "path": found["path"]}]
    )
    await operator.open("/admin")
    assert "/sign-in" in operator.page.url


async def test_language_and_theme_are_kept(stage: Stage, operator: Operator) -> None:
    page = await operator.open("/admin/keys")
    await page.get_by_label("Language").select_option("zh")
    await page.get_by_label("Theme").select_option("dark")
    await operator.press("Apply")
    assert page.url == f"{stage.url}/admin/keys"
    await expect(page.get_by_role("heading", level=1)).to_have_text("密钥与限额")
    assert await page.locator("html").get_attribute("data-theme") == "dark"
    assert await page.locator("html").get_attribute("lang") == "zh-Hans"


async def test_times_are_in_the_zone_of_the_browser(operator: Operator) -> None:
    page = await operator.open("/admin/audit")
    shown = page.locator("main time").first
    assert (await shown.get_attribute("datetime") or "").endswith("+01:00")
    assert (await shown.get_attribute("title") or "").endswith("CET")
    await expect(page.locator("footer")).to_contain_text("Europe/Berlin")


async def test_all_can_be_reached_by_keyboard(operator: Operator) -> None:
    page = await operator.open("/admin")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    link = page.locator(".side").get_by_role("link", name="Keys")
    await link.focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/admin/keys")
    await page.locator("#new > summary").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Make the key")).to_be_visible()
    assert page.url.endswith("/admin/keys")
