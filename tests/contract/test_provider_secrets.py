"""Whatever a provider sends back of our secrets is cut out before it is kept."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from libs.common.adapters.accounts import Accounts
from libs.common.errors import GenerationError
from tests.contract.conftest import adapter


@pytest.mark.parametrize(
    ("provider", "variable"),
    [("bfl", "BFL_API_KEY"), ("bfl", "BFL_WEBHOOK_SECRET"), ("replicate", "REPLICATE_WEBHOOK_SECRET")],
)
async def test_a_secret_that_is_echoed_is_redacted(
    accounts: Accounts, provider: str, variable: str, simulated_credentials: dict[str, str]
) -> None:
    secret = simulated_credentials[variable]

    async def echo(_: web.Request) -> web.Response:
        return web.Response(status=400, text=f"you sent {secret}")

    app = web.Application()
    app.router.add_get("/echo", echo)
    async with TestServer(app) as server:
        with pytest.raises(GenerationError, match=r"you sent \[redacted\]") as caught:
            await adapter(accounts, provider).http.get(str(server.make_url("/echo")))
    assert secret not in f"{caught.value} {caught.value.details}"
