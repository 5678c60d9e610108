"""Prices to which a visitor of the console consents."""

from __future__ import annotations

import pytest

from libs.common.database.stores.second_payment import is_accepted
from services.gateway.console import formats


@pytest.mark.parametrize(("price_usd", "shown"), [(0.04, "$0.04"), (1.006, "$1.006"), (12.3456789, "$12.345679")])
def test_a_price_is_shown_so_that_consent_to_it_is_enough(price_usd: float, shown: str) -> None:
    assert formats.price(price_usd) == shown
    assert is_accepted(price_usd, float(shown.removeprefix("$")))
