from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import Adapter
from libs.common.catalog import CatalogHolder
from tests.conftest import quick
from tests.support.infrastructure import Infrastructure


@pytest.fixture
async def accounts(shared: Infrastructure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Accounts]:
    """The adapters over the simulated providers, with a submit's deadline of a second."""

    def hasty(catalog: dict[str, dict[str, dict[str, object]]]) -> None:
        quick(catalog)
        for provider in catalog["providers"].values():
            provider["limits"] = {"submit_timeout_seconds": 1.0, "check_timeout_seconds": 1.0}

    path, credentials = shared.catalog(tmp_path, hasty)
    for variable, value in credentials.items():
        monkeypatch.setenv(variable, value)
    holder = CatalogHolder(path)
    found = Accounts(holder)
    yield found
    await found.close()


@pytest.fixture
def simulated_credentials(shared: Infrastructure, tmp_path: Path) -> dict[str, str]:
    """What the simulated catalog's variables hold."""
    return shared.catalog(tmp_path, None)[1]


def adapter(accounts: Accounts, provider_id: str) -> Adapter:
    """The adapter of one provider account."""
    return accounts.adapter(accounts.catalog.current.providers[provider_id])
