"""A provider account and a model, for tests of what follows from them."""

from __future__ import annotations

from libs.common.catalog import Model, Provider
from libs.common.database.records_dispatch import AccountRecord
from libs.common.database.states import BreakerState

PROVIDER = Provider.model_validate({"id": "bfl", "adapter": "flux", "base_url": "https://api.example.com"})
MODEL = Model.model_validate(
    {
        "identifier": "flux-pro",
        "provider": "bfl",
        "upstream_model": "flux-pro-1.1",
        "media_type": "image",
        "price_per_output_usd": 0.04,
        "polling": {"strategy": "fixed", "interval_seconds": 2.5},
    }
)
ACCOUNT = AccountRecord(
    provider_id="bfl",
    tokens=0.0,
    tokens_at=None,
    spend_day=None,
    spend_usd=0.0,
    breaker_state=BreakerState.CLOSED,
    breaker_successes=0.0,
    breaker_failures=0.0,
    breaker_counted_at=None,
    breaker_retry_at=None,
    breaker_opens=0,
    breaker_changed_at=None,
    now=1_000_000.0,
    today="2026-11-25",
)
