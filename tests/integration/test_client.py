"""The typed client and the command line, against the real gateway."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from darkroom.gateway.v1 import admin_pb2, gateway_pb2

from bench.imaging.pictures import opened, quarters, written
from libs.client import Client, DarkroomError
from libs.client.batches import picture_from
from sandbox.demo import looked_into
from tests.conftest import StartStack
from tests.support.closing import in_progress
from tests.support.running import Running
from tests.support.simulator import FAILS, Simulator, simulated
from tests.support.waiting import eventually

_COMMAND = str(Path(sys.executable).parent / "darkroom")


def _address(running: Running) -> str:
    return f"127.0.0.1:{running.stack.plan.ports.grpc['gateway']}"


async def test_generate_returns_files(running: Running, tmp_path: Path) -> None:
    seen: list[int] = []
    async with Client(_address(running), running.admin_key) as client:
        files = await client.generate(
            "gpt-image-1",
            simulated("client", task_seconds=0.2),
            parameters={"output_format": "png"},
            number_of_outputs=2,
            labels={"team": "red"},
            on_progress=lambda generation: seen.append(generation.status),
        )
    assert [file.content_type for file in files] == ["image/png"] * 2
    saved = [file.save(tmp_path) for file in files]
    assert len({path.name for path in saved}) == 2
    assert looked_into(saved[0].read_bytes(), "image").kind == "PNG"
    assert seen[-1] == gateway_pb2.GENERATION_STATUS_SUCCESS


async def test_what_goes_wrong_is_an_error_with_our_code(running: Running) -> None:
    async with Client(_address(running), running.admin_key) as client:
        with pytest.raises(DarkroomError) as caught:
            await client.generate("flux-pro", "", parameters={"seed": -1})
        assert caught.value.code == "INVALID_REQUEST"
        assert {"prompt", "parameters.seed"} <= set(caught.value.fields)
        with pytest.raises(DarkroomError) as caught:
            await client.generate("flux-pro", simulated("client fails", task_seconds=0.1, faults=FAILS))
        assert (caught.value.code, caught.value.generation_id[:4]) == ("TASK_FAILED", "gen_")
        with pytest.raises(DarkroomError) as caught:
            await client.generate("flux-pro", simulated("client slow", task_seconds=5), timeout_seconds=0.3)
        assert (caught.value.code, caught.value.generation_id[:4]) == ("PROVIDER_TIMEOUT", "gen_")
        await client.cancel(caught.value.generation_id)
        assert [model.identifier for model in await client.models("video")]
    async with Client(_address(running), "wrong-key-000000000000000") as stranger:
        with pytest.raises(DarkroomError, match="AUTHENTICATION_FAILED"):
            await stranger.models()


async def test_a_gateway_that_restarts_is_waited_for_and_nothing_is_made_twice(
    start_stack: StartStack, simulator: Simulator
) -> None:
    running = await start_stack()
    prompt = simulated("client through a restart", task_seconds=3)
    async with Client(_address(running), running.admin_key) as client:
        generation_id = await client.submit("flux-pro", prompt)
        async with in_progress(client.wait(generation_id)) as waiting:
            await running.reaches(generation_id, gateway_pb2.GENERATION_STATUS_PROCESSING)
            running.stack.kill("gateway")
            await running.restart("gateway")
            generation = await asyncio.wait_for(waiting, 30)
        assert (await client.files(generation))[0].content
    assert len(await simulator.bills(prompt)) == 1


async def test_a_watch_that_is_left_early_ends_its_rpc(running: Running) -> None:
    def fail(_: gateway_pb2.Generation) -> None:
        raise RuntimeError("the caller's own")

    async def no_rpc_is_left() -> bool:
        return await running.metric("gateway", "darkroom_gateway_watchers") == 0

    async with Client(_address(running), running.admin_key) as client:
        generation_id = await client.submit("flux-pro", simulated("left early", task_seconds=30))
        with pytest.raises(RuntimeError) as caught:
            await client.wait(generation_id, on_progress=fail)
        await eventually(no_rpc_is_left, within=5, what="the gateway has no watcher")
        await client.cancel(generation_id)
    # Nothing was left to the garbage collector: the traceback refers to all that the call used.
    assert caught.value.__traceback__ is not None


class Ran(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


async def _run(running: Running, *arguments: str, key: str | None = None, more: Mapping[str, str] | None = None) -> Ran:
    environment = {
        **os.environ,
        "DARKROOM_ADDRESS": _address(running),
        "DARKROOM_API_KEY": running.admin_key if key is None else key,
        "COLUMNS": "200",
        **(more or {}),
    }
    child = await asyncio.create_subprocess_exec(
        _COMMAND, *arguments, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(child.communicate(), 60)
    return Ran(child.returncode or 0, out.decode(), err.decode())


@pytest.mark.slow
async def test_the_command_line_changes_keys_and_runs_again(running: Running) -> None:
    made = await _run(
        running, "keys", "create", "--owner", "changed", "--monthly-budget-usd", "5", "--live-generations", "9"
    )
    words = dict(line.split()[:2] for line in made.out.splitlines() if line.startswith(("id ", "key ")))
    changed = await _run(
        running, "keys", "update", words["id"], "--requests-per-minute", "7", "--clear", "live-generations"
    )
    assert (changed.code, changed.err) == (0, "")
    (key,) = (await running.admin.ListApiKeys(admin_pb2.ListApiKeysRequest(owner="changed"))).api_keys
    assert (key.quota.requests_per_minute, key.quota.monthly_budget_usd) == (7, 5)
    assert not key.quota.HasField("live_generations")
    first = (await _run(running, "submit", "flux-schnell", simulated("once", task_seconds=0), key=words["key"])).out
    await running.ended(first.strip())
    again = await _run(running, "rerun", first.strip(), key=words["key"])
    assert (again.code, again.err) == (0, "")
    assert (await running.ended(again.out.strip())).rerun_of_id == first.strip()


@pytest.mark.slow
async def test_the_command_line_from_the_key_to_the_file(running: Running, tmp_path: Path) -> None:
    made = await _run(running, "keys", "create", "--owner", "command", "--monthly-budget-usd", "5")
    (key,) = [line.split()[-1] for line in made.out.splitlines() if line.startswith("key ")]
    prompt = simulated("command", task_seconds=0.2)
    submitted = await _run(
        running, "submit", "flux-pro", prompt, "--parameter", "seed=7", "--label", "team=red",
        "--save", str(tmp_path), key=key,
    )  # fmt: skip
    assert (submitted.code, submitted.err) == (0, "")
    (file,) = tmp_path.iterdir()
    assert looked_into(file.read_bytes(), "image").kind == "JPEG"
    generation_id = submitted.out.split()[0]

    shown = json.loads((await _run(running, "get", generation_id, "--json", key=key)).out)
    assert (shown["parameters"]["seed"], shown["labels"]) == (7, {"team": "red"})
    listed = await _run(running, "list", "--status", "success", "--label", "team=red", key=key)
    assert generation_id in listed.out
    watched = await _run(running, "watch", generation_id, key=key)
    assert "SUCCESS" in watched.out
    assert "flux-pro" in (await _run(running, "models", "--media-type", "image", key=key)).out

    rated = await _run(running, "rate", generation_id, "4", "--context", "revenue=1.5", key=key)
    assert (rated.code, rated.err) == (0, "")
    unrated = await _run(running, "rate", "gen_none", "4", key=key)
    assert (unrated.code, "NOT_FOUND" in unrated.err) == (1, True)

    slow = (await _run(running, "submit", "kling-v1-6", simulated("stop me", task_seconds=30), key=key)).out.split()[0]
    assert slow in (await _run(running, "cancel", slow, key=key)).out

    keys = await _run(running, "keys", "list", "--owner", "command")
    key_id = next(line.split()[0] for line in keys.out.splitlines() if "command" in line)
    row = next(line for line in keys.out.splitlines() if "command" in line).split()
    assert row[5:9] == ["5", "0.00", "0.04", "0.28"], "budget, reserved, spent, at risk"
    assert (await _run(running, "keys", "revoke", key_id)).code == 0
    refused = await _run(running, "list", key=key)
    assert (refused.code, "AUTHENTICATION_FAILED" in refused.err) == (1, True)
    assert "Traceback" not in refused.err


@pytest.mark.slow
async def test_a_batch_of_a_file_is_made_once_however_often_it_is_run(
    running: Running, tmp_path: Path, simulator: Simulator
) -> None:
    prompts = [simulated(f"row {number}", task_seconds=0.1) for number in range(4)]
    fails = simulated("row that fails", task_seconds=0.1, faults=FAILS)
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"modelIdentifier": "flux-pro", "prompt": text}) for text in [*prompts, fails]]
    path.write_text("\n".join(lines))
    assert "5" in (await _run(running, "batch", "estimate", str(path))).out
    ran = await _run(running, "batch", "submit", str(path))
    assert ran.code == 0
    for _ in range(2):
        ran = await _run(running, "batch", "submit", str(path), "--save", str(tmp_path / "out"))
        assert (ran.code, ran.err) == (1, "")
        assert "4 of 5 succeeded" in ran.out
        assert "TASK_FAILED: generation failed" in ran.out
    assert [len(await simulator.bills(prompt)) for prompt in prompts] == [1] * 4
    assert len(list((tmp_path / "out").iterdir())) == 4

    batch_id = ran.out.split()[0]
    assert json.loads((await _run(running, "batch", "get", batch_id, "--json")).out)["failedTasks"] == 1
    assert batch_id in (await _run(running, "batch", "list")).out
    again = await _run(running, "batch", "resume", batch_id, "--code", "TASK_FAILED")
    assert "PROCESSING" in again.out
    assert "4 of 5 succeeded" in (await _run(running, "batch", "watch", batch_id)).out
    assert "PARTIAL_FAILED" in (await _run(running, "batch", "cancel", batch_id)).out


async def test_a_large_batch_travels_as_a_stream_and_pages_come_by_themselves(running: Running) -> None:
    async with Client(_address(running), running.admin_key) as client:
        requests = [gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt=f"of many {n}", ref=f"r{n}")
                    for n in range(1_001)]  # fmt: skip
        requests[1].images_from.append(picture_from("r0", 1))
        with pytest.raises(DarkroomError) as raised:
            await client.batches.submit(requests)
        assert raised.value.code == "INVALID_REQUEST"
        requests[1].images_from.pop()
        batch_id = await client.batches.submit(requests)
        await client.batches.cancel(batch_id)
        assert (await client.batches.wait(batch_id)).total_tasks == 1_001
        prompts = [task.prompt async for task in client.batches.tasks(batch_id)]
        assert prompts == [request.prompt for request in requests]


@pytest.mark.slow
async def test_images_are_prepared_from_the_command_line(running: Running, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.png").write_bytes(written(quarters(1_000, 800), "PNG"))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    files = [str(tmp_path / name) for name in ("one.png", "two.png")]
    done = await _run(running, "preprocess", *files, "--preset", "fast", "-o", str(tmp_path / "out"))
    assert (done.code, "fit 1000x800 to 512x410" in done.out) == (0, True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.jpg", "two.jpg"]
    image = opened((tmp_path / "out" / "one.jpg").read_bytes())
    assert (image.format, image.size) == ("JPEG", (512, 410))

    options = ("--format", "webp", "--mode", "cover", "--width", "300", "--height", "300", "--quality", "60")
    single = str(tmp_path / "single.webp")
    assert (await _run(running, "preprocess", files[0], *options, "--max-size-kb", "5", "-o", single)).code == 0
    assert opened(Path(single).read_bytes()).size == (300, 300)
    assert Path(single).stat().st_size <= 5_000

    told = await _run(running, "preprocess", files[0], str(tmp_path / "bad.jpg"), "--url-days", "2")
    assert (told.code, told.out.count("X-Amz-Expires=172800")) == (1, 1)
    assert "The image is not PNG, JPEG" in told.out
    again = await _run(running, "preprocess", files[0], str(tmp_path / "out" / "one.jpg"))
    assert (again.code, "more than one file is called one" in again.err) == (2, True)
