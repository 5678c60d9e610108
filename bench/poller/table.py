"""The table of what was measured: each figure, and how many times ours it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from bench.poller.measure import Measured


@dataclass(frozen=True, slots=True)
class Column:
    """A figure: where it comes from, and how it is written. `of` answers None where there is none."""

    heading: str
    of: Callable[[Measured], float | None]
    write: Callable[[float], str]
    with_ratio: bool = True


def _ms(value: float) -> str:
    return f"{value:.0f} ms"


COLUMNS = (
    Column("polls/s", lambda measured: measured.polls_per_second, lambda value: f"{value:.0f}"),
    Column("late p50", lambda measured: measured.late_p50_seconds * 1_000, _ms, with_ratio=False),
    Column("late p99", lambda measured: measured.late_p99_seconds * 1_000, _ms, with_ratio=False),
    Column("CPU/poll", lambda measured: measured.cpu_ms_per_poll, lambda value: f"{value:.2f} ms"),
    Column("servers' CPU/poll", lambda measured: measured.server_cpu_ms_per_poll, lambda value: f"{value:.2f} ms"),
    Column("statements/poll", lambda measured: measured.statements_per_poll, lambda value: f"{value:.3f}"),
    Column("peak memory", lambda measured: measured.peak_bytes / 2**20, lambda value: f"{value:.0f} MiB"),
    Column(
        "memory/10,000 tasks",
        lambda measured: measured.bytes_per_10_000_tasks / 2**20,
        lambda value: f"{value:.0f} MiB",
    ),
)


def table(found: list[Measured], *, ours: str) -> Table:
    """All contenders, with the ratio of each figure to that of `ours` where that was measured too."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("", no_wrap=True)
    for column in COLUMNS:
        made.add_column(column.heading, justify="right", no_wrap=True)
    base = next((measured for measured in found if measured.name == ours), None)
    for measured in found:
        made.add_row(measured.name, *(_cell(column, measured, base) for column in COLUMNS))
    return made


def _cell(column: Column, measured: Measured, base: Measured | None) -> str:
    value = column.of(measured)
    if value is None:
        return "none"
    text = column.write(value)
    if base is None or base is measured or not column.with_ratio:
        return text
    ours = column.of(base)
    return f"{text}  {value / ours:.1f}x" if ours else text
