"""Downloads: HEAD, ranges, conditions, readers that go away. The connection stays in step whatever is asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import aiohttp
import psutil
import pytest

from services.gateway.rest.routes import all_bindings
from tests.support.asked import asked, create, ended
from tests.support.console import SESSION, visitor
from tests.support.http import call
from tests.support.infrastructure import Infrastructure
from tests.support.kept import Answer, Kept, kept_connection
from tests.support.running import Running
from tests.support.simulator import simulated
from tests.support.stacks import StackOfModule, stack_of_module
from tests.support.stored import exchange, long_video
from tests.support.waiting import eventually

_SLOW_SECONDS = 1.0
_VARIABLE = re.compile(r"\{\w+\}")


@pytest.fixture(scope="module")
def module_stack(shared: Infrastructure) -> Iterator[StackOfModule]:
    settings = {"DARKROOM_WATCH_WRITE_TIMEOUT_SECONDS": str(_SLOW_SECONDS)}
    with stack_of_module(shared, "downloads", settings=settings) as found:
        yield found


@dataclass(frozen=True)
class World:
    """A long video, and a batch of two images."""

    running: Running
    content: bytes
    video_id: str
    batch_id: str

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()}"'

    @property
    def video(self) -> str:
        return f"/v1/videos/{self.video_id}/content"

    def export(self, kind: str) -> str:
        return f"/api/external/generation/batch/{self.batch_id}/export?format={kind}"

    @property
    def downloads(self) -> list[str]:
        return [self.video, self.export("jsonl"), self.export("zip")]

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[Kept]:
        async with kept_connection(self.running.gateway_url()) as kept:
            yield kept

    async def ask(self, method: str, path: str, **headers: str) -> Answer:
        """An answer on a connection of its own, which is in step after it."""
        async with self.kept() as kept:
            found = await kept.ask(method, path, x_api_key=self.running.admin_key, **headers)
            assert (await kept.ask("GET", "/api/health")).json["status"]
            return found


_worlds: dict[str, World] = {}


@pytest.fixture
async def world(stack: Running) -> World:
    url = stack.stack.environment["DARKROOM_DATABASE_URL"]
    found = _worlds[url] if url in _worlds else await _new_world(stack)
    _worlds[url] = replace(found, running=stack)
    return _worlds[url]


async def _new_world(stack: Running) -> World:
    made = await stack.create("kling-v1-6", simulated("a long one", task_seconds=0))
    requests = [asked(simulated(f"exported {number}", task_seconds=0)) for number in range(2)]
    batch_id = await create(stack.gateway, requests)
    await ended(stack.gateway, batch_id)
    await stack.ended(made)
    content = await asyncio.to_thread(long_video)
    await exchange(stack, made, content)
    return World(stack, content, made, batch_id)


async def test_head_of_a_download_has_headers_and_no_body(world: World) -> None:
    for path in world.downloads:
        head, whole = await world.ask("HEAD", path), await world.ask("GET", path)
        differing = {"date", "x-request-id", "transfer-encoding"}
        assert head.status == whole.status == 200
        assert {name: value for name, value in head.headers.items() if name not in differing} == {
            name: value for name, value in whole.headers.items() if name not in differing
        }
        assert whole.headers.get("content-length") in {None, str(len(whole.body))}
    assert (await world.ask("HEAD", world.video)).headers["content-length"] == str(len(world.content))


async def test_head_of_every_route_leaves_the_connection_in_step(world: World) -> None:
    values = {"{id}": world.video_id, "{batch_id}": world.batch_id}
    # Streams of events refuse the method, which is as good.
    paths = {
        _VARIABLE.sub(lambda found: values.get(found[0], "none"), binding.path)
        for binding in all_bindings()
        if binding.verb == "GET"
    }
    assert f"/api/external/generation/{world.video_id}/events" in paths
    more = {"/v1/models", f"/v1/videos/{world.video_id}", "/api/openapi.json", "/api/metrics", "/api/health"}
    for path in sorted(paths | more):
        assert (await world.ask("HEAD", path)).status in {200, 404, 405, 503}, path


async def test_head_in_the_console_leaves_the_connection_in_step(world: World) -> None:
    async with visitor(world.running.gateway_url()) as operator:
        await operator.sign_in(world.running.admin_key)
        cookie = f"{SESSION}={operator.cookies[SESSION]}"
    generation, batch = f"/admin/generations/{world.video_id}", f"/admin/batches/{world.batch_id}"
    for path in (f"{generation}/outputs/0", f"{batch}/download?format=zip", f"{batch}/download", "/admin", generation):
        assert (await world.ask("HEAD", path, cookie=cookie)).status == 200, path
        await world.ask("HEAD", path, cookie=cookie, accept="text/event-stream")
    part = await world.ask("GET", f"{generation}/outputs/0", cookie=cookie, range="bytes=-7")
    assert (part.status, part.body) == (206, world.content[-7:])


@pytest.mark.parametrize(
    ("given", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=100-", 100, None),
        ("bytes=-5", -5, None),
        ("bytes=-99999999999", 0, None),
        ("BYTES= 5 - 9 ", 5, 10),
        ("bytes=1-99999999999999999", 1, None),
    ],
)
async def test_a_range_is_answered_with_that_part(world: World, given: str, begin: int, end: int | None) -> None:
    answer, wanted = await world.ask("GET", world.video, range=given), world.content[begin:end]
    first = begin if begin >= 0 else len(world.content) + begin
    assert (answer.status, answer.body) == (206, wanted)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(wanted) - 1}/{len(world.content)}"
    assert answer.headers["content-length"] == str(len(wanted))
    assert answer.headers["etag"] == world.etag


@pytest.mark.parametrize(
    "given",
    ["bytes=0-0,5-9", "bytes=5-2", "bytes=", "bytes=-", "bytes=a-b", "items=0-1", "bytes", "bytes=1-2-3", "bytes=٣-٤",
     "bytes=99999999999999999999999-"],
)  # fmt: skip
async def test_what_is_no_single_range_is_answered_with_the_whole(world: World, given: str) -> None:
    async with world.kept() as kept:
        kept.writer.write(f"GET {world.video} HTTP/1.1\r\nhost: x\r\nx-api-key: {world.running.admin_key}\r\n".encode())
        kept.writer.write(b"range: " + given.encode() + b"\r\n\r\n")
        answer = await kept.answer("GET")
        assert (answer.status, answer.body) == (200, world.content)
        assert answer.headers["accept-ranges"] == "bytes"


async def test_a_range_behind_the_end_cannot_be_satisfied(world: World) -> None:
    for given in (f"bytes={len(world.content)}-", "bytes=9999999999-", "bytes=-0"):
        answer = await world.ask("GET", world.video, range=given)
        assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(world.content)}")
        assert answer.json["error"]["type"] == "invalid_request_error"


async def test_conditions_are_held_against_the_etag(world: World) -> None:
    etag, other = world.etag, '"0"'
    for given in (etag, f"{other}, {etag}", f"W/{etag}", "*"):
        for method in ("GET", "HEAD"):
            answer = await world.ask(method, world.video, if_none_match=given)
            assert (answer.status, answer.headers["etag"]) == (304, etag)
    assert (await world.ask("GET", world.video, if_none_match=other)).status == 200
    assert (await world.ask("GET", world.video, if_match=other)).status == 412
    assert (await world.ask("GET", world.video, if_match=f"W/{etag}")).status == 412
    assert (await world.ask("HEAD", world.video, if_match=etag)).status == 200
    assert (await world.ask("GET", world.video, range="bytes=0-3", if_range=etag)).status == 206
    for given in (other, f"W/{etag}", "Wed, 21 Oct 2026 07:28:00 GMT", "x"):
        answer = await world.ask("GET", world.video, range="bytes=0-3", if_range=given)
        assert (answer.status, len(answer.body)) == (200, len(world.content))


async def test_a_file_that_is_made_while_it_is_sent_has_no_ranges(world: World) -> None:
    answer = await world.ask("GET", world.export("jsonl"), range="bytes=0-3")
    assert (answer.status, answer.headers["accept-ranges"]) == (200, "none")
    assert {"etag", "content-range", "content-length"}.isdisjoint(answer.headers)
    assert len([json.loads(line) for line in answer.body.splitlines()]) == 2


@pytest.mark.parametrize(
    ("query", "field"),
    [("?variant=thumbnail", "variant"), ("?variant=spritesheet", "variant"), ("?variant=", "variant"),
     ("?variant=video&variant=video", "variant"), ("?vairant=video", "vairant"), ("?a=1&b=2", "a")],
)  # fmt: skip
async def test_a_query_that_asks_for_another_file_is_refused(world: World, query: str, field: str) -> None:
    answer = await world.ask("GET", world.video + query)
    assert (answer.status, answer.json["error"]["param"]) == (400, field)
    assert (await world.ask("GET", f"{world.video}?variant=video")).body == world.content


async def test_unknown_and_repeated_parameters_of_exports_are_refused(world: World) -> None:
    for query, rule in (("&format=zip", "twice"), ("&from=1", "unknown")):
        answer = await world.ask("GET", world.export("jsonl") + query)
        assert (answer.status, answer.json["violations"][0]["rule"]) == (400, rule)


async def test_a_method_that_a_download_does_not_have_is_refused(world: World) -> None:
    for path in world.downloads:
        answer = await world.ask("DELETE", path)
        assert (answer.status, answer.headers["allow"]) == (405, "GET,HEAD")
        assert "application/problem+json" in answer.headers["content-type"] or "error" in answer.json


async def test_client_that_reads_nothing_is_disconnected(world: World) -> None:
    async with world.kept() as kept:
        kept.send("GET", world.video, x_api_key=world.running.admin_key)
        # Nothing is read: buffers fill up, and the gateway waits no longer than its setting says.
        await eventually(partial(_has_no_connection_of, world, kept), within=10, what="the connection is dropped")
    assert (await world.ask("HEAD", world.video)).status == 200


async def _has_no_connection_of(world: World, kept: Kept) -> bool:
    own: Any = kept.writer.get_extra_info("sockname")
    return not any(one.raddr == own for one in _connections(world) if one.status == "ESTABLISHED")


def _connections(world: World) -> list[Any]:
    child = world.running.stack.children["gateway"]
    return psutil.Process(child.pid).net_connections("tcp")


async def test_aborted_reads_leave_neither_connections_nor_threads_nor_errors(world: World) -> None:
    process = psutil.Process(world.running.stack.children["gateway"].pid)
    store = int(world.running.stack.environment["DARKROOM_S3_ENDPOINT_URL"].rpartition(":")[2])
    errors = await world.running.metric("gateway", "darkroom_log_lines_total", level="error")

    async def abort(path: str) -> None:
        async with world.kept() as kept:
            kept.send("GET", path, x_api_key=world.running.admin_key)
            await kept.reader.readexactly(100)

    for _ in range(10):
        await asyncio.gather(*(abort(path) for path in world.downloads * 2))

    async def is_calm() -> bool:
        to_store = [one for one in _connections(world) if one.raddr and one.raddr[1] == store]
        return len(to_store) <= pool and all(one.status == "ESTABLISHED" for one in to_store)

    pool = int(os.environ.get("DARKROOM_STORAGE_THREADS", "16"))
    await eventually(is_calm, within=10, what="connections to storage are closed")
    assert process.num_threads() < 200
    assert await world.running.metric("gateway", "darkroom_log_lines_total", level="error") == errors
    assert (await world.ask("GET", world.video)).body == world.content


async def test_a_read_that_is_aborted_is_read_no_further_from_storage(world: World) -> None:
    before = await world.running.metric("gateway", "darkroom_storage_seconds_count", operation="read")
    async with world.kept() as kept:
        kept.send("GET", world.video, x_api_key=world.running.admin_key)
        await kept.reader.readexactly(100)
    async with aiohttp.ClientSession() as http:
        # The next answer comes after the aborted one was cleaned up, on the same loop.
        await http.get(world.running.gateway_url() + "/api/health")
    pieces = len(world.content) / (256 * 1024)
    read = await world.running.metric("gateway", "darkroom_storage_seconds_count", operation="read") - before
    assert read < pieces


async def test_openai_shows_a_delete_as_gone(world: World) -> None:
    made = await world.running.create("kling-v1-6", simulated("gone", task_seconds=0))
    await world.running.ended(made)
    reply = await call(world.running.gateway_url(), f"/v1/videos/{made}", method="DELETE", key=world.running.admin_key)
    assert reply.status == 200
    for method in ("HEAD", "GET"):
        assert (await world.ask(method, f"/v1/videos/{made}/content")).status == 404
