"""What a line of a log costs, beside the standard library's."""

from __future__ import annotations

import json
import logging as standard
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time

import structlog
from rich.table import Table

from libs.common import logging
from libs.common.rpc.reporting import Reporter
from libs.common.settings import Settings

_LINES = 20_000


@contextmanager
def _to_nowhere() -> Iterator[None]:
    before = sys.stdout
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = nowhere
        try:
            yield
        finally:
            sys.stdout = before


def _microseconds(line: Callable[[], object]) -> float:
    for _ in range(_LINES // 10):
        line()
    began = process_time()
    for _ in range(_LINES):
        line()
    return (process_time() - began) / _LINES * 1e6


def _bare() -> float:
    """The standard library with a line of JSON and the same fields."""
    root = standard.getLogger()
    root.handlers[:] = [standard.StreamHandler(sys.stdout)]
    root.setLevel(standard.INFO)
    log = standard.getLogger("bare")
    return _microseconds(
        lambda: log.info(
            json.dumps({"message": "generation ended", "generation_id": "gen_1", "state": "SUCCESS", "seconds": 1.5})
        )
    )


def lines() -> Table:
    """A line written, one that is below the level, and one that is reported to the monitor too."""
    with _to_nowhere():
        bare = _bare()
        settings = Settings(database_url="postgresql://nowhere")
        logging.configure(settings, "bench")
        log = structlog.get_logger("bench")
        facts = {"generation_id": "gen_1", "state": "SUCCESS", "seconds": 1.5}
        found = {
            "json.dumps and the standard library": bare,
            "a line of ours": _microseconds(lambda: log.info("generation ended", **facts)),
            "one below the level": _microseconds(lambda: log.debug("generation ended", **facts)),
        }

        async def send(_: object) -> None:
            return

        reporter = Reporter("bench", send, entries=10**9, size_bytes=10**12)
        logging.listen(reporter.take, "warn")
        found["a warning, which is reported"] = _microseconds(lambda: log.warning("generation ended", **facts))
    made = Table(title="a line of a log", box=None, pad_edge=False, header_style="bold", title_justify="left")
    made.add_column("")
    made.add_column("CPU", justify="right")
    for name, microseconds in found.items():
        ratio = "" if microseconds == bare else f", {microseconds / bare:.1f}x"
        made.add_row(name, f"{microseconds:.1f} µs{ratio}")
    return made
