"""Whatever a provider sends back of our secrets is cut out before it is kept."""

from __future__ import annotations

import pytest

from libs.common.adapters.accounts import Accounts
from tests.contract.conftest import adapter


@pytest.mark.parametrize(
    ("provider", "variable"),
    [("bfl", "BFL_API_KEY"), ("bfl", "BFL_WEBHOOK_SECRET"), ("replicate", "REPLICATE_WEBHOOK_SECRET")],
)
async def test_a_secret_that_is_echoed_is_redacted(
    accounts: Accounts, provider: str, variable: str, simulated_credentials: dict[str, str]
) -> None:
    secret = simulated_credentials[variable]
    shown = adapter(accounts, provider).http._clean(f"you sent {secret}")
    assert shown == "you sent [redacted]"
