"""What generations are expected to cost and to take: added up by model, and held against what was observed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from libs.common.catalog import Catalog
from libs.common.database.records import MediaType, NewGeneration
from libs.common.database.records_batches import Estimated

# What is taken for granted of a model that nobody has used yet.
_GUESSED_SECONDS: dict[MediaType, float] = {"image": 10.0, "video": 120.0}
# A model counts as if so many more had succeeded: one failure of two does not make half of all fail.
_GRACE = 5


@dataclass(slots=True)
class Asked:
    """What is asked of one model."""

    tasks: int = 0
    usd: float = 0.0
    cheapest_usd: float = 0.0
    dearest_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Observed:
    """What was lately seen of a model: how many ended, how many well, and how long half of these took at most."""

    ended: int = 0
    succeeded: int = 0
    seconds: float = 0.0

    @property
    def success_rate(self) -> float:
        """The share of those asked for that will be paid, 0 to 1."""
        return (self.succeeded + _GRACE) / (self.ended + _GRACE)


@dataclass(frozen=True, slots=True)
class Queued:
    """What a provider account has before it already."""

    waiting: int = 0
    at_work: int = 0


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known at this moment: by model what was observed, by account what is queued."""

    observed: Mapping[str, Observed] = field(default_factory=dict)
    queued: Mapping[str, Queued] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """What is expected of the generations of one model."""

    model_identifier: str
    tasks: int
    low_usd: float
    expected_usd: float
    high_usd: float
    seconds_each: float
    observed: int
    queued: int


class Tally:
    """Adds up generations by model."""

    def __init__(self) -> None:
        self.by_model: dict[str, Asked] = {}
        self.resubmit_usd = 0.0

    @property
    def reserved_usd(self) -> float:
        """What all of them reserve, in US dollars."""
        return sum(asked.dearest_usd for asked in self.by_model.values())

    def add(self, generation: NewGeneration, resubmit_usd: float = 0.0) -> None:
        """Add a generation. `resubmit_usd`: what repeated payments may add to its price, in US dollars."""
        self.resubmit_usd += resubmit_usd
        asked = self.by_model.setdefault(generation.model_identifier, Asked())
        costs = [generation.expected_cost_usd, *(fallback.expected_cost_usd for fallback in generation.fallbacks)]
        asked.tasks += 1
        asked.usd += generation.expected_cost_usd
        asked.cheapest_usd += min(costs)
        asked.dearest_usd += max(costs)

    def by_models(self, knowledge: Knowledge, catalog: Catalog) -> list[ModelEstimate]:
        """What is expected of each model, the dearest first.

        Low: what fails is not paid, and what falls back does so to the cheapest. High: all succeeds, with the dearest.
        """
        found = []
        for name, asked in self.by_model.items():
            observed = knowledge.observed.get(name, Observed())
            queued = knowledge.queued.get(catalog.model(name).provider, Queued())
            found.append(
                ModelEstimate(
                    name,
                    asked.tasks,
                    low_usd=asked.cheapest_usd * observed.success_rate,
                    expected_usd=asked.usd * observed.success_rate,
                    high_usd=asked.dearest_usd,
                    seconds_each=seconds_of(name, knowledge, catalog),
                    observed=observed.ended,
                    queued=queued.waiting + queued.at_work,
                )
            )
        return sorted(found, key=lambda model: -model.expected_usd)


def seconds_of(model: str, knowledge: Knowledge, catalog: Catalog) -> float:
    """How long a generation of a model takes."""
    return knowledge.observed.get(model, Observed()).seconds or _GUESSED_SECONDS[catalog.model(model).media_type]


def estimated(
    models: Iterable[ModelEstimate],
    knowledge: Knowledge,
    catalog: Catalog,
    *,
    max_concurrency: int,
    longest_chain_seconds: float,
) -> Estimated:
    """What is expected of all of them together.

    The time is the longest of: what the batch's own places take for all of it; what each account takes for what it has
    before it and for its part, by its tasks at once and by its rate; the longest chain of dependencies; one generation.
    """
    models = list(models)
    own_seconds = sum(model.tasks * model.seconds_each for model in models) / max_concurrency
    one_seconds = max((model.seconds_each for model in models), default=0.0)
    bounds = [own_seconds, one_seconds, longest_chain_seconds, *_by_account(models, knowledge, catalog)]
    return Estimated(
        low_usd=sum(model.low_usd for model in models),
        expected_usd=sum(model.expected_usd for model in models),
        high_usd=sum(model.high_usd for model in models),
        expected_seconds=max(bounds),
    )


def _by_account(models: Iterable[ModelEstimate], knowledge: Knowledge, catalog: Catalog) -> list[float]:
    tasks: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for model in models:
        account = catalog.model(model.model_identifier).provider
        tasks[account] = tasks.get(account, 0) + model.tasks
        seconds[account] = seconds.get(account, 0.0) + model.tasks * model.seconds_each
    found = []
    for account, count in tasks.items():
        limits = catalog.providers[account].limits
        queued = knowledge.queued.get(account, Queued())
        each = seconds[account] / count
        if limits.concurrent_tasks is not None:
            found.append((seconds[account] + (queued.waiting + queued.at_work) * each) / limits.concurrent_tasks)
        if limits.rate_per_second is not None:
            found.append((count + queued.waiting) / limits.rate_per_second + each)
    return found
