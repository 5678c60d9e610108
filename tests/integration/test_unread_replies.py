"""A reply of a paid submit that cannot be read: kept, shown to operators, and nothing is sent again."""

from __future__ import annotations

import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from tests.support.running import FAILED, Running
from tests.support.simulator import Simulator, simulated


@pytest.mark.parametrize("model", ["flux-pro", "gpt-image-1"])
async def test_it_is_kept_with_the_submission(running: Running, simulator: Simulator, model: str) -> None:
    faults = [{"operation": "submit", "kind": "html", "after": True, "times": 1}]
    prompt = simulated(f"unread {model}", task_seconds=0, faults=faults)
    generation = await running.ended(await running.create(model, prompt))
    assert (generation.status, generation.attempts) == (FAILED, 1)
    assert generation.error.code == common_pb2.ERROR_CODE_PROVIDER_ERROR
    assert "answered 200 and its reply cannot be read" in generation.error.message
    assert "the reply is kept with the submission" in generation.error.message
    assert len(await simulator.bills(prompt)) == 1

    request = gateway_pb2.ListSubmissionsRequest(generation_id=generation.id)
    (found,) = (await running.gateway.ListSubmissions(request, timeout=60)).submissions
    assert found.state == gateway_pb2.SUBMISSION_STATE_UNCERTAIN
    assert (found.reply.http_status, found.reply.content_type) == (200, "text/html")
    assert found.reply.body == "<html><body>502 Bad Gateway</body></html>"
    assert found.reply.size_bytes == len(found.reply.body)


async def test_a_reply_that_can_be_read_is_not_kept(running: Running) -> None:
    generation = await running.ended(await running.create("gpt-image-1", simulated("read", task_seconds=0)))
    request = gateway_pb2.ListSubmissionsRequest(generation_id=generation.id)
    (found,) = (await running.gateway.ListSubmissions(request, timeout=60)).submissions
    assert not found.HasField("reply")
