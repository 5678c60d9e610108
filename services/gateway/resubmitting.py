"""The price of repeated payments under the policy RESUBMIT."""

from __future__ import annotations

from libs.common.adapters.registry import adapters
from libs.common.catalog import Catalog
from libs.common.database.records import NewGeneration


def resubmit_usd(generation: NewGeneration, catalog: Catalog) -> float:
    """Return the most that repeated payments may add to the price of a generation, in US dollars.

    An attempt whose outcome stays unknown may have been billed, and RESUBMIT submits again as often as the retry policy
    of the provider account allows. 0 without RESUBMIT, and at vendors that bill a repeated submit once.
    """
    if generation.when_uncertain != "resubmit":
        return 0.0
    costs = {generation.provider_id: generation.expected_cost_usd}
    for fallback in generation.fallbacks:
        costs[fallback.provider_id] = max(costs.get(fallback.provider_id, 0.0), fallback.expected_cost_usd)
    repeated = (
        cost_usd * (catalog.providers[provider_id].retry.attempts - 1)
        for provider_id, cost_usd in costs.items()
        if not adapters()[catalog.providers[provider_id].adapter].idempotent_submit
    )
    return max(repeated, default=0.0)
