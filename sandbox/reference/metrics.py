"""Tables of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.metrics import MetricWrapperBase

from libs.common import metrics
from sandbox.reference.tables import table

_Metric = tuple[str, str, Sequence[str], str]


def process_metrics_table() -> str:
    """A table of what processes measure themselves: name, type, labels, meaning."""
    return metrics_table(_declared(item) for item in vars(metrics).values() if isinstance(item, MetricWrapperBase))


def database_metrics_table() -> str:
    """A table of what monitors read from the database: name, type, labels, meaning."""
    families = metrics.DATABASE_FAMILIES.items()
    return metrics_table((name, kind, labels, text) for name, (kind, text, labels) in families)


def metrics_table(rows: Iterable[_Metric]) -> str:
    """A table of metrics, each with its name, type, labels and meaning."""
    return table(
        ["metric", "type", "labels", "meaning"],
        ((f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text) for name, kind, labels, text in rows),
    )


def _declared(metric: MetricWrapperBase) -> _Metric:
    (family,) = metric.describe()
    # The client leaves the suffix out, under which a counter is scraped.
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = metric._labelnames  # noqa: SLF001 (the client does not publish the labels of a metric)
    return name, family.type, labels, family.documentation
