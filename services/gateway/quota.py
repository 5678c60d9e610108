"""What a key's quota lets in: pure, so that the store may ask it while it holds the key's usage."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common import metrics
from libs.common.database.records import NewGeneration
from libs.common.database.records_edge import Admission, KeyUsage
from libs.common.errors import ErrorCode, GenerationError

# Nobody knows when a generation ends; so long is a fair guess.
_LIVE_RETRY_SECONDS = 5.0
# Makes up for the sums of floats.
_BILLIONTH_USD = 1e-9


def admit(usage: KeyUsage, generations: Sequence[NewGeneration]) -> Admission:
    """Let in as many of `generations`, in their order, as the quota has left. One that does not fit bars no later one.

    The bucket of requests holds a minute's worth and fills evenly. What is refused uses nothing up.
    """
    quota = usage.quota
    tokens = _tokens(usage)
    live, used_usd = usage.live_generations, usage.used_usd
    refusals: list[GenerationError | None] = []
    for generation in generations:
        refusal = None
        if tokens is not None and quota.requests_per_minute is not None and tokens < 1:
            refusal = _too_many_requests(quota.requests_per_minute, tokens)
        elif quota.live_generations is not None and live >= quota.live_generations:
            refusal = _too_many_live(quota.live_generations, live)
        elif (
            quota.monthly_budget_usd is not None
            and used_usd + generation.reserved_usd > quota.monthly_budget_usd + _BILLIONTH_USD
        ):
            refusal = _over_budget(usage, used_usd - usage.used_usd, generation.reserved_usd)
        refusals.append(refusal)
        if refusal is None:
            tokens = None if tokens is None else tokens - 1
            live += 1
            used_usd += generation.reserved_usd
        else:
            metrics.ADMISSIONS_REFUSED.labels(str(refusal.details["quota"])).inc()
    return Admission(refusals, tokens)


def admit_batch(usage: KeyUsage, places: int, reserved_usd: float) -> Admission:
    """Let in a batch of which `places` may be under way at once, or not. It counts as one request."""
    quota = usage.quota
    tokens = _tokens(usage)
    live = usage.live_generations
    refusal = None
    if tokens is not None and quota.requests_per_minute is not None and tokens < 1:
        refusal = _too_many_requests(quota.requests_per_minute, tokens)
    elif quota.live_generations is not None and live + places > quota.live_generations:
        refusal = _too_many_live(quota.live_generations, live, places)
    elif (
        quota.monthly_budget_usd is not None
        and usage.used_usd + reserved_usd > quota.monthly_budget_usd + _BILLIONTH_USD
    ):
        refusal = _over_budget(usage, 0.0, reserved_usd)
    if refusal is not None:
        metrics.ADMISSIONS_REFUSED.labels(str(refusal.details["quota"])).inc()
        return Admission([refusal], tokens)
    return Admission([None], None if tokens is None else tokens - 1)


def _tokens(usage: KeyUsage) -> float | None:
    limit = usage.quota.requests_per_minute
    if limit is None:
        return None
    if usage.tokens is None:
        return float(limit)
    return min(float(limit), usage.tokens + usage.tokens_age_seconds * limit / 60)


def _too_many_requests(limit: int, tokens: float) -> GenerationError:
    return GenerationError(
        ErrorCode.RATE_LIMITED,
        f"This API key may create {limit} generations a minute.",
        {"quota": "requests_per_minute", "limit": limit},
        retry_after_seconds=(1 - tokens) * 60 / limit,
    )


def _too_many_live(limit: int, live: int, places: int = 1) -> GenerationError:
    wanted = "" if places == 1 else f"; this batch may have {places} (max_concurrency)"
    return GenerationError(
        ErrorCode.RATE_LIMITED,
        f"This API key may have {limit} generations under way, and has {live}{wanted}.",
        {"quota": "live_generations", "limit": limit, "used": live},
        retry_after_seconds=_LIVE_RETRY_SECONDS,
    )


def _over_budget(usage: KeyUsage, admitted_usd: float, wanted_usd: float) -> GenerationError:
    """The refusal of what would exceed the budget, with the parts of what counts against it.

    Args:
        usage: of the key.
        admitted_usd: what the same call has reserved already, in US dollars.
        wanted_usd: what the refused one would reserve, in US dollars.
    """
    budget = usage.quota.monthly_budget_usd
    parts = {"reserved": usage.reserved_usd + admitted_usd, "spent": usage.spent_usd, "at risk": usage.at_risk_usd}
    used_usd = sum(parts.values())
    named = ", ".join(f"{usd:.4g} {part}" for part, usd in parts.items() if usd > _BILLIONTH_USD) or "nothing is used"
    return GenerationError(
        ErrorCode.QUOTA_EXCEEDED,
        f"This API key may spend {budget:g} US dollars a month; {used_usd:.4g} count against that ({named}), and this "
        f"may cost {wanted_usd:.4g}.",
        {
            "quota": "monthly_budget_usd",
            "limit_usd": budget,
            "used_usd": round(used_usd, 6),
            "reserved_usd": round(parts["reserved"], 6),
            "spent_usd": round(parts["spent"], 6),
            "at_risk_usd": round(parts["at risk"], 6),
            "requested_usd": round(wanted_usd, 6),
        },
        retry_after_seconds=usage.month_seconds_left,
    )
