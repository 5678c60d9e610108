"""REST: the same RPCs, as HTTP has them."""

from __future__ import annotations

import asyncio
import gzip
import json
from random import randbytes
from typing import Any

import pytest

from tests.conftest import StartStack
from tests.support.http import Reply, call
from tests.support.running import Running
from tests.support.simulator import simulated

GENERATION = "/api/external/generation"
GOOD = {"modelIdentifier": "flux-pro", "prompt": "x"}


async def _post(running: Running, body: Any = GOOD, path: str = GENERATION, **options: Any) -> Reply:
    return await call(
        running.gateway_url(), path, method="POST", key=options.pop("key", running.admin_key), json_body=body, **options
    )


async def _get(running: Running, path: str, **options: Any) -> Reply:
    return await call(running.gateway_url(), path, key=options.pop("key", running.admin_key), **options)


async def test_the_whole_way_over_http(running: Running) -> None:
    body = {
        "modelIdentifier": "flux-pro",
        "prompt": simulated("over http", task_seconds=0.1),
        "number_of_outputs": 1,
        "parameters": {"seed": 42, "output_format": "png"},
        "labels": {"team": "blue"},
        "whenUncertain": "RESUBMIT",
    }
    made = await _post(running, body)
    assert (made.status, made.json["status"]) == (200, "PENDING")
    await running.ended(made.json["id"])
    shown = (await _get(running, f"{GENERATION}/{made.json['id']}")).json
    assert (shown["status"], shown["progress"], shown["parameters"]["seed"]) == ("SUCCESS", 100, 42)
    assert shown["results"][0]["type"] == "image"
    assert isinstance(shown["results"][0]["sizeBytes"], int)
    deleted = await call(
        running.gateway_url(), f"{GENERATION}/{made.json['id']}", method="DELETE", key=running.admin_key
    )
    assert (deleted.status, deleted.json["code"], deleted.json["details"]["status"]) == (
        409,
        "ALREADY_ENDED",
        "SUCCESS",
    )


async def test_models_and_submissions_are_listed(running: Running) -> None:
    models = (await _get(running, "/api/external/models?mediaType=video")).json["models"]
    assert {model["mediaType"] for model in models} == {"video"}
    assert (await _get(running, "/api/admin/submissions?page_size=1")).status == 200
    refused = await _get(running, "/api/external/models?mediaType=sound")
    assert (refused.status, refused.json["violations"][0]["field"]) == (400, "mediaType")


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({**GOOD, "promt": "x"}, "promt", "unknown"),
        ({**GOOD, "inputImages": ["http://a/b", 7]}, "inputImages[1]", "type"),
        ({**GOOD, "input_images": ["nonsense"]}, "input_images[0]", "value_error"),
        ({**GOOD, "numberOfOutputs": "two"}, "numberOfOutputs", "type"),
        ({**GOOD, "numberOfOutputs": 2**40}, "numberOfOutputs", "range"),
        ({**GOOD, "whenUncertain": "MAYBE"}, "whenUncertain", "one_of"),
        ({**GOOD, "labels": {"a": 1}}, "labels.a", "type"),
        ({**GOOD, "parameters": {"seed": 2**60}}, "parameters.seed", "range"),
        ({**GOOD, "prompt": "x", "userId": "\ud800"}, "userId", "unicode"),
        ({**GOOD, "reuseWithinSeconds": -1}, "reuseWithinSeconds", "greater_than_equal"),
        ([], "body", "type"),
    ],
)
async def test_a_fault_is_told_with_its_path_as_it_was_written(
    running: Running, body: Any, field: str, rule: str
) -> None:
    reply = await _post(running, body)
    assert (reply.status, reply.headers["content-type"]) == (400, "application/problem+json")
    assert (field, rule) in [(fault["field"], fault["rule"]) for fault in reply.json["violations"]]
    assert reply.json["code"] in {"INVALID_REQUEST", "INVALID_PARAMETERS"}
    assert reply.json["requestId"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("body", ["{", "[" * 100_000, '{"prompt": NaN}', "\xff"])
async def test_what_is_no_json_is_refused(running: Running, body: str) -> None:
    reply = await call(
        running.gateway_url(), GENERATION, method="POST", key=running.admin_key, data=body.encode("latin-1"),
        headers={"content-type": "application/json"},
    )  # fmt: skip
    assert (reply.status, reply.json["violations"][0]["rule"]) == (400, "json")


async def test_the_request_id_goes_in_and_out(running: Running) -> None:
    reply = await _post(running, headers={"X-Request-Id": "my-own-id"})
    assert reply.headers["x-request-id"] == "my-own-id"
    shown = await _get(running, f"{GENERATION}/{reply.json['id']}")
    assert shown.json["requestId"] == "my-own-id"
    hostile = await _get(running, "/api/external/models", headers={"X-Request-Id": "a b<script>"})
    assert hostile.headers["x-request-id"].startswith("req_")


async def test_large_answers_are_packed_and_packed_bodies_are_read(running: Running) -> None:
    reply = await _get(running, "/api/external/models", headers={"accept-encoding": "gzip"}, unpack=False)
    assert reply.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(reply.body))["models"]
    body = gzip.compress(json.dumps(GOOD).encode())
    packed = await call(
        running.gateway_url(), GENERATION, method="POST", key=running.admin_key, data=body,
        headers={"content-encoding": "gzip", "content-type": "application/json"},
    )  # fmt: skip
    assert packed.status == 200


async def test_a_body_is_bounded_also_where_it_is_packed(running: Running) -> None:
    for body, headers in (
        (b"[" + b" " * (17 * 1024**2), {}),
        (gzip.compress(b"[" + randbytes(9 * 1024**2).hex().encode()), {"content-encoding": "gzip"}),
    ):
        reply = await call(
            running.gateway_url(), GENERATION, method="POST", key=running.admin_key, data=body,
            headers={"content-type": "application/json", **headers},
        )  # fmt: skip
        assert (reply.status, reply.headers["content-type"]) == (413, "application/problem+json")


async def test_a_body_that_unpacks_to_far_more_than_it_is_is_refused(running: Running) -> None:
    blanks = gzip.compress(b"[" + b" " * (10 * 1024**2))
    for path, kind in (
        (GENERATION, "application/json"),
        ("/v1/images/generations", "application/json"),
        (f"{GENERATION}/batch/upload", "application/x-ndjson"),
    ):
        reply = await call(
            running.gateway_url(), path, method="POST", key=running.admin_key, data=blanks,
            headers={"content-type": kind, "content-encoding": "gzip"},
        )  # fmt: skip
        assert reply.status == 400, path
        assert "100 times" in reply.body.decode(), path


async def test_a_form_is_not_packed(running: Running) -> None:
    form = gzip.compress(b"prompt=x")
    reply = await call(
        running.gateway_url(), "/v1/images/edits", method="POST", key=running.admin_key, data=form,
        headers={"content-type": "application/x-www-form-urlencoded", "content-encoding": "gzip"},
    )  # fmt: skip
    assert reply.status == 415


async def test_other_types_routes_and_methods_are_told(running: Running) -> None:
    wrong = await call(
        running.gateway_url(), GENERATION, method="POST", key=running.admin_key, data=b"<x/>",
        headers={"content-type": "application/xml"},
    )  # fmt: skip
    assert wrong.status == 415
    assert (await _get(running, "/api/external/nothing")).status == 404
    put = await call(running.gateway_url(), GENERATION, method="PUT", key=running.admin_key, json_body={})
    assert (put.status, "POST" in put.headers["allow"]) == (405, True)
    assert put.headers["content-type"] == "application/problem+json"
    unknown = await _get(running, f"{GENERATION}?pagesize=3")
    assert (unknown.status, unknown.json["violations"][0]["description"]) == (
        400, "unknown; did you mean pageSize?",
    )  # fmt: skip


async def test_health_needs_no_key_and_metrics_need_an_admins(running: Running) -> None:
    health = await _get(running, "/api/health", key="")
    # No monitor runs here, which is told, and is no reason to send nobody any more.
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert set(health.json) == {"status", "timestamp", "uptime", "version"}
    assert b"darkroom_http_seconds" in (await _get(running, "/api/metrics")).body
    client = (await running.new_key("acme")).key
    assert (await _get(running, "/api/metrics", key=client)).status == 403


async def test_browsers_may_call_from_the_origins_that_are_named(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_CORS_ORIGINS": "https://app.example"})
    asks = {"origin": "https://app.example", "access-control-request-method": "POST"}
    allowed = await call(running.gateway_url(), GENERATION, method="OPTIONS", headers=asks)
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (204, "https://app.example")
    assert "x-api-key" in allowed.headers["access-control-allow-headers"]
    called = await _get(running, "/api/external/models", headers={"origin": "https://app.example"})
    assert called.headers["access-control-allow-origin"] == "https://app.example"
    for method in ("OPTIONS", "GET"):
        other = await call(
            running.gateway_url(), "/api/external/models", method=method, key=running.admin_key,
            headers={**asks, "origin": "https://evil.example"},
        )  # fmt: skip
        assert "access-control-allow-origin" not in other.headers


async def test_pages_are_stable_while_others_come_in(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",))
    for number in range(25):
        await _post(running, {**GOOD, "prompt": f"{number}", "labels": {"even": str(number % 2 == 0)}})
    path, seen = f"{GENERATION}?pageSize=10", []
    reply = await _get(running, path)
    while True:
        seen += [generation["prompt"] for generation in reply.json["generations"]]
        token = reply.json["nextPageToken"]
        if not token:
            break
        await _post(running, {**GOOD, "prompt": "came in meanwhile"})
        reply = await _get(running, f"{path}&pageToken={token}")
    assert seen == [str(number) for number in reversed(range(25))]

    even = await _get(running, f"{GENERATION}?labels[even]=True&pageSize=100")
    assert len(even.json["generations"]) == 13
    ids = [generation["id"] for generation in even.json["generations"]]
    middle = even.json["generations"][6]["createdAt"]
    older = await _get(running, f"{GENERATION}?labels[even]=True&createdBefore={middle}")
    assert [generation["id"] for generation in older.json["generations"]] == ids[7:]
    newer = await _get(running, f"{GENERATION}?labels[even]=True&createdAfter={middle}")
    assert [generation["id"] for generation in newer.json["generations"]] == ids[:7]
    await call(running.gateway_url(), f"{GENERATION}/{ids[0]}", method="DELETE", key=running.admin_key)
    cancelled = await _get(running, f"{GENERATION}?status=CANCELLED&modelIdentifier=flux-pro")
    assert [generation["id"] for generation in cancelled.json["generations"]] == [ids[0]]
    for nothing in ("modelIdentifier=flux-dev", "batchId=batch_1", "experimentId=exp_1", "apiKeyId=key_x", "owner=x"):
        assert (await _get(running, f"{GENERATION}?{nothing}")).json["generations"] == []
    assert (await _get(running, f"{GENERATION}?labels[even]=True&pageSize=0")).json["generations"]
    for bad in (
        "pageSize=-1",
        "pageSize=1&pageSize=2",
        "status=SUCCESS&status=FAILED",
        "labels[a]=1&labels[a]=1",
        "pageToken=%00",
        "status=GOOD",
        "createdAfter=yesterday",
        "labels=x",
        "modelIdentifier=%00",
    ):
        assert (await _get(running, f"{GENERATION}?{bad}")).status == 400, bad


async def test_concurrent_requests_share_an_insert_and_a_bad_one_harms_nobody(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",))
    before = await running.metric("gateway", "darkroom_writer_group_size_count", writer="intake")
    bodies = [{**GOOD, "prompt": "" if number % 10 == 0 else f"{number}"} for number in range(100)]
    replies = await asyncio.gather(*(_post(running, body) for body in bodies))
    assert [reply.status for reply in replies] == [400 if number % 10 == 0 else 200 for number in range(100)]
    groups = await running.metric("gateway", "darkroom_writer_group_size_count", writer="intake") - before
    rows = await running.metric("gateway", "darkroom_writer_group_size_sum", writer="intake")
    assert (rows, groups < 90) == (90, True)
