"""Totals of the business, from the database: each replica shows the same, so that none is counted twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from libs.common import metrics
from libs.common.catalog import CatalogHolder
from libs.common.database.states import State
from libs.common.database.stores.statistics import Count, StatisticsStore
from services.monitor.board import Board, Component

Samples = dict[tuple[str, ...], float]
_LIVE = (State.PENDING, State.DISPATCHING, State.PROCESSING, State.STORING)
_SHOWN = {"up": 1.0, "degraded": 0.5, "down": 0.0}


class Figures(Collector):
    """Reads the figures now and again, and shows them to whoever scrapes.

    Args:
        store: totals, and what is under way.
        catalog: names the providers, so that one with nothing under way shows a zero.
        board: how each component is.
    """

    def __init__(self, store: StatisticsStore, catalog: CatalogHolder, board: Board) -> None:
        self._store = store
        self._catalog = catalog
        self._board = board
        self._samples: Mapping[str, Samples] = {}

    async def read(self) -> bool:
        """Read them. A turn of a loop."""
        totals = await self._store.totals()
        states, queues, tasks = await self._store.states(), await self._store.queues(), await self._store.tasks()
        nothing: Samples = {(name,): 0.0 for name in self._catalog.current.providers}
        still: Samples = {(state.value,): 0.0 for state in _LIVE}
        self._samples = {
            **_totals(totals),
            "darkroom_live_generations": still | {(state,): float(number) for state, number in states.items()},
            "darkroom_live_tasks": nothing | {(task.provider_id,): float(task.live) for task in tasks},
            "darkroom_tasks_overdue_seconds": nothing | {(task.provider_id,): task.overdue_seconds for task in tasks},
            "darkroom_queue_depth": nothing | {(queue.provider_id,): float(queue.waiting) for queue in queues},
            "darkroom_queue_age_seconds": nothing | {(queue.provider_id,): queue.oldest_seconds for queue in queues},
        }
        return False

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """What was read last, and the components as they are."""
        samples = {**self._samples, "darkroom_component_up": _components(self._board.components)}
        for name, (kind, text, labels) in metrics.DATABASE_FAMILIES.items():
            make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            family = make(name, text, labels=labels)
            for values, figure in samples.get(name, {}).items():
                family.add_metric(values, figure)
            yield family


def _components(components: Sequence[Component]) -> Samples:
    return {(component.name,): _SHOWN[component.status] for component in components}


def _totals(counts: Iterable[Count]) -> dict[str, Samples]:
    found: dict[str, Samples] = defaultdict(lambda: defaultdict(float))
    for count in counts:
        model, provider = count.model_identifier, count.provider_id
        if count.kind == "generation_created":
            found["darkroom_all_generations_created_total"][model, provider] += count.count
        elif count.kind == "generation_ended":
            ended = (model, provider, count.outcome, count.code)
            found["darkroom_all_generations_ended_total"][ended] += count.count
            if count.cost_usd:
                found["darkroom_all_spend_usd_total"][model, provider] += count.cost_usd
        elif count.kind == "money_at_risk":
            found["darkroom_at_risk_usd"][model, provider] += round(count.cost_usd, 6)
        elif count.kind == "money_spent":
            found["darkroom_billed_without_result_usd"][model, provider] += round(count.cost_usd, 6)
        elif count.kind == "task_ended":
            found["darkroom_all_tasks_ended_total"][provider, count.outcome] += count.count
    return found
