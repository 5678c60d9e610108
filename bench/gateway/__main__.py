"""`python -m bench.gateway`: all contenders in one run, at several concurrencies, and a table with ratios to ours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from bench.gateway.contenders import CREATING, IMAGES, Running, Start
from bench.gateway.load import Sent, load
from bench.gateway.watching import watching
from bench.place import Place, Unavailable, place
from bench.usage import Usage
from sandbox.plan import FOLDER

_LEVELS = (1, 16, 128)
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What one contender came to at one concurrency. CPU in milliseconds a request: its own, and its database's."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    database_cpu_ms: float


async def measure(running: Running, concurrency: int, seconds: float) -> Figures:
    """Send to a contender and measure it."""
    clients = running.clients()
    own, database = Usage(running.pids), Usage(running.database_pids)

    def begin() -> None:
        own.start()
        database.start()

    try:
        sent: Sent = await load(clients.send, concurrency=concurrency, seconds=seconds, begin=begin)
    finally:
        await clients.close()
    requests = len(sent.latencies)
    return Figures(
        per_second=sent.per_second,
        p50_ms=sent.percentile_ms(0.5),
        p99_ms=sent.percentile_ms(0.99),
        cpu_ms=own.cpu_seconds * 1_000 / requests,
        database_cpu_ms=database.cpu_seconds * 1_000 / requests,
    )


def table(title: str, found: Mapping[tuple[str, int], Figures], ours: str) -> Table:
    """All figures, each with its ratio to that of `ours` at the same concurrency."""
    made = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for heading in ("", "at once", "requests/s", "p50", "p99", "CPU/request", "database's CPU/request"):
        made.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for (name, level), figures in found.items():
        base = found.get((ours, level))
        made.add_row(
            name,
            str(level),
            _cell(figures.per_second, base.per_second if base else 0, "{:,.0f}"),
            _cell(figures.p50_ms, base.p50_ms if base else 0, "{:.1f} ms"),
            _cell(figures.p99_ms, base.p99_ms if base else 0, "{:.1f} ms"),
            _cell(figures.cpu_ms, base.cpu_ms if base else 0, "{:.2f} ms"),
            _cell(figures.database_cpu_ms, base.database_cpu_ms if base else 0, "{:.2f} ms"),
        )
    return made


def _cell(value: float, ours: float, form: str) -> str:
    text = form.format(value)
    return text if not ours or value == ours else f"{text}  {value / ours:.2f}x"


def run(
    there: Place, contenders: Mapping[str, Start], levels: list[int], seconds: float
) -> dict[tuple[str, int], Figures]:
    """Measure one contender after the other; one that cannot be run here is told, and left out."""
    found: dict[tuple[str, int], Figures] = {}
    for name, start in contenders.items():
        there.tell(name)
        try:
            with start(there) as running:
                for level in levels:
                    found[name, level] = uvloop.run(measure(running, level, seconds))
        except (TimeoutError, Unavailable, grpc.RpcError, aiohttp.ClientError) as error:
            there.tell(f"{name} is left out: {error}")
    return found


def main() -> int:
    """Read the command line, measure, and answer the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description="Take requests in: us and peers.")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="for each contender and concurrency")
    parser.add_argument("--concurrency", type=int, action="append", help="how many at once; may be given several times")
    parser.add_argument("--only", choices=[*CREATING, *IMAGES], action="append", help="these contenders alone")
    parser.add_argument("--watchers", type=int, metavar="STREAMS", help="open so many WatchGeneration streams instead")
    given = parser.parse_args()
    console = Console(highlight=False, width=160)
    with place(FOLDER / "bench-gateway", console) as there:
        if given.watchers:
            for name, value in watching(there, given.watchers).items():
                console.print(f"  {name:<52} {value:,.1f}")
            return 0
        for title, contenders, ours in (
            ("CreateGeneration over gRPC", CREATING, "darkroom"),
            ("POST /v1/images/generations, to the picture", IMAGES, "darkroom images"),
        ):
            chosen = {name: start for name, start in contenders.items() if name in (given.only or contenders)}
            if chosen:
                found = run(there, chosen, given.concurrency or list(_LEVELS), given.seconds)
                console.print(table(title, found, ours))
    return 0


if __name__ == "__main__":
    sys.exit(main())
