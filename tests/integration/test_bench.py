"""The benchmark measures what it says it does, on a load that is no load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.gateway.__main__ import run as run_gateway
from bench.gateway.__main__ import table as gateway_table
from bench.gateway.contenders import CREATING
from bench.imaging.sizes import sizes
from bench.place import Place
from bench.poller.contenders import DARKROOM
from bench.poller.measure import Measured
from bench.poller.run import measure
from bench.poller.scenario import Scenario
from bench.poller.table import COLUMNS, table
from sandbox.postgres import Postgres
from sandbox.processes import free_port


@pytest.mark.slow
async def test_our_poller_is_measured(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", free_port(), durable=False)
    await asyncio.to_thread(postgres.start)
    try:
        scenario = Scenario(tasks=40, polls=3, interval_seconds=0.5, vendor_url="")
        found = await asyncio.to_thread(measure, Place(tmp_path, postgres, print), DARKROOM, scenario)
    finally:
        await asyncio.to_thread(postgres.stop)
    assert (found.done, found.polls, found.note) == (40, 120, "")
    assert 0 < found.cpu_ms_per_poll < 1_000
    assert found.statements_per_poll is not None
    assert found.statements_per_poll > 0
    assert found.late_p50_seconds <= found.late_p99_seconds
    assert found.peak_bytes > 2**20


@pytest.mark.slow
async def test_our_gateway_is_measured_beside_an_echo(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", free_port(), durable=False)
    await asyncio.to_thread(postgres.start)
    try:
        place = Place(tmp_path, postgres, print)
        chosen = {name: CREATING[name] for name in ("darkroom", "echo")}
        found = await asyncio.to_thread(run_gateway, place, chosen, [2], 0.5)
    finally:
        await asyncio.to_thread(postgres.stop)
    assert set(found) == {("darkroom", 2), ("echo", 2)}
    for figures in found.values():
        assert figures.per_second > 1
        assert 0 < figures.p50_ms <= figures.p99_ms
    assert found["darkroom", 2].database_cpu_ms > 0 == found["echo", 2].database_cpu_ms
    shown = gateway_table("x", found, "darkroom")
    assert "x" in str(list(shown.columns[2].cells)[1])


def test_sizes_are_kept_and_counted() -> None:
    shown = sizes(6, print)
    columns = [list(column.cells) for column in shown.columns]
    assert columns[0] == ["noise", "photo", "flat"]
    assert columns[1] == columns[2] == ["2", "2", "2"], "all are kept to the size"


def _measured(name: str, cpu_ms: float, statements: float | None) -> Measured:
    return Measured(
        name=name,
        polls=100,
        done=10,
        seconds=2.0,
        late_p50_seconds=0.1,
        late_p99_seconds=0.2,
        cpu_ms_per_poll=cpu_ms,
        server_cpu_ms_per_poll=1.0,
        statements_per_poll=statements,
        peak_bytes=2**20,
        bytes_per_10_000_tasks=2**20,
    )


@pytest.mark.parametrize(
    ("heading", "cells"), [("CPU/poll", ["0.50 ms", "2.00 ms  4.0x"]), ("statements/poll", ["0.050", "none"])]
)
def test_the_table_shows_ratios_to_ours(heading: str, cells: list[str]) -> None:
    made = table([_measured("darkroom", 0.5, 0.05), _measured("other", 2.0, None)], ours="darkroom")
    column = made.columns[1 + [column.heading for column in COLUMNS].index(heading)]
    assert list(column.cells) == cells
