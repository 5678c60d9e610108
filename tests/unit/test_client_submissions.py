"""Submissions by the client and by the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from darkroom.gateway.v1 import gateway_pb2
from typer.testing import CliRunner

from libs.client import Client
from libs.client.commands.app import app
from libs.client.commands.submissions import submissions

PAGES = {"": "second", "second": ""}


async def _list(request: gateway_pb2.ListSubmissionsRequest, context: Any) -> gateway_pb2.ListSubmissionsResponse:
    """Answer with two pages of one submission each."""
    return gateway_pb2.ListSubmissionsResponse(
        submissions=[gateway_pb2.Submission(id=f"sub_{request.page_token}", provider_id=request.provider_id)],
        next_page_token=PAGES[request.page_token],
        total_submissions=2,
    )


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        _list,
        request_deserializer=gateway_pb2.ListSubmissionsRequest.FromString,
        response_serializer=gateway_pb2.ListSubmissionsResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler(
        "darkroom.gateway.v1.GenerationService", {"ListSubmissions": handler}
    )
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Client(f"127.0.0.1:{port}", "key") as found:
        yield found
    await server.stop(0)


async def test_listing_all_pages_leaves_the_request_as_it_was(client: Client) -> None:
    request = gateway_pb2.ListSubmissionsRequest(provider_id="bfl", page_size=7)
    for _ in range(2):
        found = await client.list_submissions(request)
        assert [one.id for one in found.submissions] == ["sub_", "sub_second"]
    assert request == gateway_pb2.ListSubmissionsRequest(provider_id="bfl", page_size=7)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sub_1", "--provider", "bfl"], "give either ids, or --provider"),
        (["sub_1", "sub_2", "--after", "2026-11-29"], "give either ids, or --provider"),
        (["sub_1", "sub_2", "--accept-second-payment", "0.1"], "take exactly one id"),
        (["--resolution", "resubmitted"], "take exactly one id"),
        (["sub_1", "sub_2", "--cost-usd", "1"], "take exactly one id"),
    ],
)
def test_resolve_refuses_options_that_do_not_apply(arguments: list[str], expected: str) -> None:
    ran = CliRunner().invoke(submissions, ["resolve", *arguments, "--billing", "billed"], env={"COLUMNS": "300"})
    assert ran.exit_code == 2
    assert expected in ran.output


@pytest.mark.parametrize("command", [["submissions", "resolve"], ["rerun"], ["batch", "resume"]])
def test_consent_to_a_second_payment_is_the_same_option_everywhere(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"})
    assert "--accept-second-payment " in shown.output
