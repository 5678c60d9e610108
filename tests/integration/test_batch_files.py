"""Batches as files: handed in by lines, taken out by lines and as an archive; by the same rules as over gRPC."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from functools import partial
from typing import Any

import grpc
import pytest
from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.engine import Database
from tests.conftest import StartStack
from tests.support.asked import asked, create, ended
from tests.support.http import Reply, call
from tests.support.rows import rows
from tests.support.running import Running
from tests.support.simulator import FAILS, simulated
from tests.support.waiting import eventually

_numbers = itertools.count()
PATH = "/api/external/generation/batch"


def _prompt(**behaviour: Any) -> str:
    return simulated(f"of a file, number {next(_numbers)}", **{"task_seconds": 0.1, **behaviour})


def _line(prompt: str, **fields: Any) -> str:
    parameters = {"size_or_ratio": "256x256"}
    return json.dumps({"modelIdentifier": "flux-pro", "prompt": prompt, "parameters": parameters, **fields})


async def _upload(running: Running, body: str, query: str = "", **headers: str) -> Reply:
    return await call(
        running.gateway_url(),
        f"{PATH}/upload{query}",
        method="POST",
        key=running.admin_key,
        data=body.encode(),
        headers={"content-type": "application/x-ndjson", **headers},
    )


async def test_lines_become_a_batch_with_the_options_of_the_query(running: Running) -> None:
    prompts = [_prompt() for _ in range(450)]
    body = "\n\n".join(_line(prompt) for prompt in prompts)
    reply = await _upload(running, body, "?maxConcurrency=200&priority=7", **{"idempotency-key": "lines"})
    assert reply.status == 200
    assert (reply.json["totalTasks"], reply.json["status"], reply.json["isRepeat"]) == (450, "PROCESSING", False)
    again = await _upload(running, body, "?maxConcurrency=200&priority=7", **{"idempotency-key": "lines"})
    assert (again.json["batchId"], again.json["isRepeat"]) == (reply.json["batchId"], True)
    page = await call(running.gateway_url(), f"{PATH}/{reply.json['batchId']}?pageSize=450", key=running.admin_key)
    assert [task["prompt"] for task in page.json["tasks"]] == prompts
    assert {task["priority"] for task in page.json["tasks"]} == {7}
    await call(running.gateway_url(), f"{PATH}/{reply.json['batchId']}", method="DELETE", key=running.admin_key)


@pytest.mark.parametrize(
    ("body", "query", "fields"),
    [
        pytest.param("", "", ["requests"], id="nothing"),
        pytest.param("{}\n{", "", ["requests[1]"], id="no JSON"),
        pytest.param(_line("x") + "\n" + _line("x", promt="y"), "", ["requests[1].promt"], id="an unknown field"),
        pytest.param(_line("") + "\n" + _line("x", priority=11), "", ["requests[0].prompt", "requests[1].priority"],
                     id="rules"),
        pytest.param(_line("x"), "?maxConcurency=2", ["maxConcurency"], id="an unknown option"),
        pytest.param(_line("x"), "?maxConcurrency=0", ["options.max_concurrency"], id="an option out of range"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_told_by_the_line(running: Running, body: str, query: str, fields: list[str]) -> None:
    reply = await _upload(running, body, query)
    assert reply.status == 400
    assert [violation["field"] for violation in reply.json["violations"]] == fields


async def test_what_is_no_text_is_refused(running: Running) -> None:
    reply = await _upload(running, _line("x"), **{"content-type": "image/png"})
    assert reply.status == 415


async def test_too_large_a_line_and_too_large_a_file_are_refused_and_leave_nothing(
    start_stack: StartStack, database: Database
) -> None:
    settings = {"DARKROOM_HTTP_BODY_LIMIT_BYTES": "20000", "DARKROOM_UPLOAD_LIMIT_BYTES": "400000"}
    running = await start_stack(services=("gateway",), settings=settings)
    assert (await _upload(running, _line("x" * 30_000))).status == 413
    assert (await _upload(running, "\n".join(_line(f"{n} " + "x" * 1_000) for n in range(500)))).status == 413
    for table in ("batch_uploads", "generation_batches", "generation_requests"):
        # What was kept of it is dropped after the answer.
        await eventually(partial(_is_empty, database, table), within=10, what=f"{table} is empty")


async def _is_empty(database: Database, table: str) -> bool:
    return await rows(database, f"SELECT * FROM {table}") == []


async def test_a_stream_has_its_options_first_and_is_taken_whole(running: Running, database: Database) -> None:
    async def messages(*, late: bool) -> Any:
        options = gateway_pb2.BatchOptions(max_concurrency=2)
        yield gateway_pb2.UploadBatchRequest(options=options, requests=[asked(_prompt())])
        yield gateway_pb2.UploadBatchRequest(requests=[asked(_prompt())], options=options if late else None)

    answer = await running.gateway.UploadBatch(messages(late=False), timeout=60)
    assert answer.total_tasks == 2
    assert (await ended(running.gateway, answer.batch_id)).completed_tasks == 2
    with pytest.raises(grpc.aio.AioRpcError, match="options: must be set in the first message only"):
        await running.gateway.UploadBatch(messages(late=True), timeout=60)
    assert await rows(database, "SELECT * FROM batch_uploads") == []


async def test_results_are_taken_out_by_lines_and_as_an_archive(running: Running) -> None:
    requests = [asked(_prompt(), ref="first"), asked(_prompt(faults=FAILS)), asked(_prompt(), model="kling-v1-6")]
    batch_id = await create(running.gateway, requests)
    batch = await ended(running.gateway, batch_id)

    lines = await call(running.gateway_url(), f"{PATH}/{batch_id}/export", key=running.admin_key)
    assert lines.headers["content-type"] == "application/x-ndjson"
    found = [json.loads(line) for line in lines.body.splitlines()]
    assert [(line["id"], line["status"]) for line in found] == [
        (task.id, status) for task, status in zip(batch.tasks, ("SUCCESS", "FAILED", "SUCCESS"), strict=True)
    ]

    packed = await call(running.gateway_url(), f"{PATH}/{batch_id}/export?format=zip", key=running.admin_key)
    assert packed.headers["content-disposition"] == f'attachment; filename="{batch_id}.zip"'
    with zipfile.ZipFile(io.BytesIO(packed.body)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["000000-first-0.jpg", "000002-0.mp4", "manifest.jsonl"]
        manifest = [json.loads(line) for line in archive.read("manifest.jsonl").splitlines()]
        assert [line["files"] for line in manifest] == [["000000-first-0.jpg"], [], ["000002-0.mp4"]]
        assert manifest[1]["error"]["code"] == "TASK_FAILED"
        assert len(archive.read("000002-0.mp4")) == batch.tasks[2].results[0].size_bytes
    wrong = await call(running.gateway_url(), f"{PATH}/{batch_id}/export?format=tar", key=running.admin_key)
    assert wrong.json["violations"][0]["field"] == "format"


async def test_a_template_is_priced_beforehand_and_runs_as_it_was_shown(running: Running) -> None:
    body: dict[str, Any] = {
        "template": {"prompt": _prompt().replace("{", "{{").replace("}", "}}") + " {animal}", "ref": "{animal}",
                     "modelIdentifier": "flux-pro", "parameters": {"size_or_ratio": "256x256", "seed": "{seed}"}},
        "matrix": {"animal": ["cat", "dog"], "seed": [7]},
    }  # fmt: skip
    url, key = running.gateway_url(), running.admin_key
    price = await call(url, "/api/external/generation/estimate", method="POST", key=key, json_body=body)
    assert (price.json["totalTasks"], price.json["currency"]) == (2, "USD")
    assert [(line["ref"], line["parameters"]["seed"]) for line in price.json["examples"]] == [("cat", 7), ("dog", 7)]
    (model,) = price.json["models"]
    assert (model["modelIdentifier"], model["totalTasks"]) == ("flux-pro", 2)

    made = await call(url, PATH, method="POST", key=key, json_body=body)
    batch = await ended(running.gateway, made.json["batchId"])
    assert [task.prompt[-3:] for task in batch.tasks] == ["cat", "dog"]
    assert batch.estimate.high_usd == pytest.approx(price.json["highUsd"])
    both = await call(url, PATH, method="POST", key=key, json_body={**body, "requests": [{}]})
    assert both.json["violations"][0]["field"] == "requests"
