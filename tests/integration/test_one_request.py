"""One request id finds the whole life of a generation: log lines, spans, errors and attempts, in all services."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.plan import SERVICES
from tests.conftest import StartStack
from tests.support.collector import Collector, collector
from tests.support.http import call
from tests.support.running import FAILED, Running
from tests.support.simulator import FAILS, simulated
from tests.support.waiting import eventually

_REQUEST_ID = "req-of-a-generation-that-is-looked-for"


def _lines(running: Running) -> dict[str, list[dict[str, Any]]]:
    """By service, the log lines of the request."""
    found: dict[str, list[dict[str, Any]]] = {}
    for service in SERVICES:
        lines = [json.loads(line) for line in running.log(service).splitlines() if line.startswith("{")]
        found[service] = [line for line in lines if line.get("context", {}).get("request_id") == _REQUEST_ID]
    return found


async def _errors(running: Running) -> list[dict[str, Any]]:
    path = f"/api/admin/monitoring/error-logs?requestId={_REQUEST_ID}"
    errors: list[dict[str, Any]] = (await call(running.gateway_url(), path, key=running.admin_key)).json["errors"]
    return errors


@pytest.mark.timeout(300)
async def test_one_request_id_finds_all_there_is(start_stack: StartStack, capsys: pytest.CaptureFixture[str]) -> None:
    async with collector() as traces:
        running = await start_stack(
            services=SERVICES,
            settings={"OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"},
        )
        body = {"modelIdentifier": "flux-pro", "prompt": simulated("looked for", task_seconds=0.2, faults=FAILS)}
        headers = {"x-request-id": _REQUEST_ID}
        made = await call(
            running.gateway_url(), "/api/external/generation", method="POST", key=running.admin_key, json_body=body,
            headers=headers,
        )  # fmt: skip
        generation = await running.ended(made.json["id"])
        assert (generation.status, generation.request_id) == (FAILED, _REQUEST_ID)

        async def reported() -> bool:
            return any("task ended" in error["message"] for error in await _errors(running))

        await eventually(reported, within=10, what="the error is in the log")

        async def traced() -> bool:
            # A span comes after those within it.
            spans = [span for span in traces.spans if span.request_id == _REQUEST_ID]
            return "gateway" in {span.service for span in spans} and {"submit", "poll"} <= {span.name for span in spans}

        await eventually(traced, within=10, what="the spans have come")
        await _check(running, traces, made.json["id"], capsys)


async def _check(running: Running, traces: Collector, generation_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines, errors = _lines(running), await _errors(running)
    spans = [span for span in traces.spans if span.request_id == _REQUEST_ID]
    path = f"/api/admin/submissions?generationId={generation_id}"
    submissions = (await call(running.gateway_url(), path, key=running.admin_key)).json["submissions"]
    with capsys.disabled():
        print(f"\n{_REQUEST_ID}:")
        for service, found in lines.items():
            for line in found:
                print(f"  line    {service:11} {line['level']:5} {line['message']}")
        for span in spans:
            print(f"  span    {span.service:11} {span.name}{'  ⇠ linked' if span.linked_trace_ids else ''}")
        for error in errors:
            print(f"  error   {error['source']:11} {error['level']:5} {error['message']}")
        for submission in submissions:
            print(f"  attempt {submission['providerId']:11} {submission['state']} {submission['id']}")
    # Experiments have no part in a request yet.
    for service in ("gateway", "dispatcher", "poller", "monitor"):
        assert lines[service], service
    (accepting,) = {span.trace_id for span in spans if span.service == "gateway" and "CreateGeneration" in span.name}
    linked = {span.name: span.linked_trace_ids for span in spans if span.linked_trace_ids}
    assert set(linked) >= {"submit", "poll"}
    assert all(trace_ids == (accepting,) for trace_ids in linked.values())
    assert {span.name for span in spans if span.service == "poller"} >= {"poll", "GET"}, "the vendor's call is in it"
    assert any("db.system" in span.attributes for span in traces.spans), "statements are traced"
    (ended,) = [error for error in errors if "task ended" in error["message"]]
    assert (ended["source"], ended["generationId"]) == ("adapter:bfl", generation_id)
    assert [submission["generationId"] for submission in submissions] == [generation_id]
