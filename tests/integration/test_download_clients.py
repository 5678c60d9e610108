"""Clients that people have, and a proxy, survive HEAD, ranges and aborted reads of downloads on kept connections."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.async_api import async_playwright

from tests.support import nginx as proxy
from tests.support.asked import asked, create, ended
from tests.support.browser import launched
from tests.support.browser import needed as browser_needed
from tests.support.infrastructure import Infrastructure
from tests.support.kept import kept_connection
from tests.support.running import Running
from tests.support.simulator import simulated
from tests.support.stacks import StackOfModule, stack_of_module
from tests.support.stored import exchange, long_video

pytestmark = pytest.mark.slow

_CURL = shutil.which("curl")
curl_needed = pytest.mark.skipif(_CURL is None, reason="needs curl")
_CONNECTIONS = re.compile(r"Re-using existing connection|Connected to")


@pytest.fixture(scope="module")
def module_stack(shared: Infrastructure) -> Iterator[StackOfModule]:
    with stack_of_module(shared, "download_clients") as found:
        yield found


@dataclass(frozen=True)
class World:
    """A long video, and an export."""

    running: Running
    content: bytes
    video: str
    export: str

    @property
    def key(self) -> dict[str, str]:
        return {"x-api-key": self.running.admin_key}


@pytest.fixture
async def world(stack: Running) -> World:
    made = await stack.create("kling-v1-6", simulated("seen by clients", task_seconds=0))
    batch_id = await create(stack.gateway, [asked(simulated("exported", task_seconds=0))])
    await ended(stack.gateway, batch_id)
    await stack.ended(made)
    content = await asyncio.to_thread(long_video)
    await exchange(stack, made, content)
    path = f"/api/external/generation/batch/{batch_id}/export?format=zip"
    return World(stack, content, f"/v1/videos/{made}/content", path)


async def _curl(*arguments: str) -> tuple[bytes, str]:
    """What it writes and what it says."""
    assert _CURL is not None
    child = await asyncio.create_subprocess_exec(
        _CURL, "--silent", "--verbose", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    written, told = await child.communicate()
    assert child.returncode == 0, told.decode()
    return written, told.decode()


@curl_needed
async def test_curl_keeps_its_connection_after_head_and_goes_on_with_what_it_has(world: World, tmp_path: Path) -> None:
    url, key = world.running.gateway_url(), f"x-api-key: {world.running.admin_key}"
    for path in (world.video, world.export):
        head = ("--head", "--output", "/dev/null", "--header", key, url + path)
        _, told = await _curl(*head, "--next", "--silent", "--verbose", "--header", key, f"{url}/api/health")
        assert "Excess found" not in told
        assert _CONNECTIONS.findall(told) == ["Connected to", "Re-using existing connection"]
    file = tmp_path / "video.mp4"
    file.write_bytes(world.content[:1_000_000])
    await _curl("--continue-at", "-", "--output", str(file), "--header", key, url + world.video)
    assert file.read_bytes() == world.content
    part, _ = await _curl("--range", "5-9", "--header", key, url + world.video)
    assert part == world.content[5:10]


@curl_needed
async def test_curl_keeps_its_connection_after_parts_of_a_file_that_was_stored_with_its_checksum(
    stack: Running,
) -> None:
    made = await stack.ended(await stack.create("kling-v1-6", simulated("seen in parts", task_seconds=0)))
    url, key = f"{stack.gateway_url()}/v1/videos/{made.id}/content", f"x-api-key: {stack.admin_key}"
    whole, _ = await _curl("--header", key, url)
    for wanted, part in (("0-3", whole[:4]), ("100-200", whole[100:201]), ("-5", whole[-5:]), ("0-", whole)):
        written, told = await _curl("--range", wanted, "--header", key, url, url)
        assert written == part * 2
        assert _CONNECTIONS.findall(told) == ["Connected to", "Re-using existing connection"]
        assert "reset" not in told


async def test_httpx_keeps_one_connection_in_step(world: World) -> None:
    limits = httpx2.Limits(max_connections=1)
    async with httpx2.AsyncClient(
        base_url=world.running.gateway_url(), headers=world.key, limits=limits, timeout=30
    ) as client:
        for path in (world.video, world.export):
            assert (await client.head(path)).status_code == 200
            assert (await client.get("/api/health")).json()["status"]
        part = await client.get(world.video, headers={"range": "bytes=-9"})
        assert (part.status_code, part.content) == (206, world.content[-9:])
        for path in (world.video, world.export):
            async with client.stream("GET", path) as answer:
                await anext(answer.aiter_raw())
            assert (await client.get("/api/health")).status_code == 200
        assert (await client.get(world.video)).content == world.content


@proxy.needed
@pytest.mark.parametrize("is_buffering", [True, False])
async def test_a_proxy_on_kept_connections_serves_everyone_their_own(
    world: World, tmp_path: Path, *, is_buffering: bool
) -> None:
    key = {"x_api_key": world.running.admin_key}
    digest = hashlib.sha256(world.content).hexdigest()
    async with proxy.nginx(world.running.gateway_url(), tmp_path, is_buffering=is_buffering) as (url, errors):
        async with kept_connection(url) as mine, kept_connection(url) as other:
            for path in (world.video, world.export):
                for _ in range(5):
                    assert (await mine.ask("HEAD", path, **key)).status == 200
                    assert (await other.ask("GET", "/api/health")).json["status"]
                async with kept_connection(url) as leaving:
                    leaving.send("GET", path, **key)
                    await leaving.reader.readexactly(100)
                assert (await other.ask("GET", "/api/health")).json["status"]
            part = await mine.ask("GET", world.video, range="bytes=7-11", **key)
            assert (part.status, part.body) == (206, world.content[7:12])
            whole = await mine.ask("GET", world.video, **key)
            assert hashlib.sha256(whole.body).hexdigest() == digest
            assert (await mine.ask("GET", world.video, if_none_match=f'"{digest}"', **key)).status == 304
            assert (await other.ask("GET", "/api/health")).json["status"]
        assert "upstream sent" not in errors.read_text()


_SEEK = """async ([url, seconds]) => {
    const video = document.querySelector("video");
    const reached = (event) => new Promise((done, failed) => {
        video.addEventListener(event, done, {once: true});
        video.onerror = () => failed(video.error.message);
    });
    const loaded = reached("loadedmetadata");
    video.src = url;
    await loaded;
    const sought = reached("seeked");
    video.currentTime = seconds;
    await sought;
    return [video.duration, video.currentTime, video.videoWidth];
}"""


@browser_needed
async def test_a_browser_plays_and_seeks(world: World) -> None:
    asked_for: list[str] = []
    async with async_playwright() as playwright, _page_of(playwright, world, asked_for) as page:
        url = world.running.gateway_url() + world.video
        for seconds in (100, 20):
            shown = await page.evaluate(_SEEK, [url, seconds])
            assert shown == [120, seconds, 320]
    ranges = [one for one in asked_for if one]
    assert any(not one.startswith("bytes=0-") for one in ranges), asked_for


@asynccontextmanager
async def _page_of(playwright: Any, world: World, asked_for: list[str]) -> AsyncIterator[Any]:
    """A page with a player, whose requests have the key; which ranges it asks for is noted."""
    browser = await launched(playwright)
    try:
        context = await browser.new_context(extra_http_headers=world.key)
        page = await context.new_page()
        page.on("request", lambda request: asked_for.append(request.headers.get("range", "")))
        player = {"body": "<video muted></video>", "content_type": "text/html"}
        await page.route("**/player", lambda route: route.fulfill(**player))
        await page.goto(world.running.gateway_url() + "/player")
        yield page
    finally:
        await browser.close()
