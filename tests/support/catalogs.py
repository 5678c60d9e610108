"""A provider account and a model, for tests of what follows from them."""

from __future__ import annotations

from libs.common.catalog import Model, Provider

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
