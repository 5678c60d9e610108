"""A run: noise, warm-up, cases, and what is left behind."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime

from tests.fuzz.gauges import LAG_LIMIT_SECONDS, Gauges, Lag, idle_loop
from tests.fuzz.report import Key, Report
from tests.fuzz.running import Player
from tests.fuzz.setting_up import POOR, grammars
from tests.fuzz.world import ROLES
from tests.support.rows import opened
from tests.support.running import Running
from tests.support.waiting import eventually

SHARES = {"rest": 0.34, "grpc": 0.26, "openai": 0.14, "webhooks": 0.1, "console": 0.11, "frames": 0.05}
MEMORY_MARGIN_BYTES = 96 * 1024**2
"""By how much the gateway's memory may differ after the cases: what the allocator keeps of the largest of them."""

_NOISE_SECONDS = 10.0
_WARM_UP_SHARE = 0.15
_CLIENTS = 24
_WINDOW_SECONDS = 1.0
_REPORT_SECONDS = 5.0
_SUSPECT_WINDOWS = 12
# A sample above the limit is the machine's if the loop's thread waited for a processor for at least so long.
_WAITED_SECONDS = 0.1
_REPLAYS = 3


async def run(
    running: Running,
    *,
    seed: str,
    cases: int,
    seconds: float = math.inf,
    faces: Sequence[str] = tuple(SHARES),
    tell: Callable[[str], None] = print,
) -> Report:
    """Send that many cases, and report what was found.

    Args:
        running: a stack with all services, which is of no use to others afterwards.
        seed: the same seed makes the same cases, but for the ids of what exists.
        cases: how many, all faces and roles together, without the warm-up.
        seconds: after how long no more cases are begun.
        faces: which faces.
        tell: called with a line about the progress.
    """
    report = Report(seed)
    tell(f"fuzzing with seed {seed}")
    async with AsyncExitStack() as held:
        database = await held.enter_async_context(opened(running.stack.environment["DARKROOM_DATABASE_URL"]))
        idle = await held.enter_async_context(idle_loop())
        gauges = Gauges(running, database, idle)
        made = await grammars(running)
        await _noise(gauges, report, tell)
        since = await gauges.now()
        warming = Report(f"{seed} warm-up")
        warm = Player(running, made, warming)
        held.push_async_callback(warm.close)
        await _Run(warm, gauges, warming, tell).perform(
            _keys(int(cases * _WARM_UP_SHARE), faces), seconds * _WARM_UP_SHARE
        )
        before = await _settled(gauges)
        report.findings.update(warming.findings)
        player = Player(running, made, report)
        held.push_async_callback(player.close)
        whole = _Run(player, gauges, report, tell)
        await whole.perform(_keys(cases, faces), seconds)
        await whole.replay()
        await _left_behind(gauges, report, since)
        await _memory(gauges, report, before)
    return report


def _keys(cases: int, faces: Sequence[str]) -> list[Key]:
    total = sum(SHARES[face] for face in faces)
    lists = [
        [Key(face, ROLES[number % len(ROLES)], number) for number in range(round(cases * SHARES[face] / total))]
        for face in faces
    ]
    # Faces take turns in proportion, so that each is tried beside all others.
    placed = [((index + 0.5) / len(keys), key) for keys in lists for index, key in enumerate(keys)]
    return [key for _, key in sorted(placed)]


def _until(deadline: float, keys: list[Key]) -> Iterator[Key]:
    """The cases, as long as there is time."""
    for key in keys:
        if time.monotonic() > deadline:
            return
        yield key


class _Run:
    """Cases under way, and the lag of the loop meanwhile."""

    def __init__(self, player: Player, gauges: Gauges, report: Report, tell: Callable[[str], None]) -> None:
        self._player, self._gauges, self._report, self._tell = player, gauges, report, tell
        self._done = 0
        self._recent: deque[tuple[float, float, Key]] = deque(maxlen=5_000)
        self._suspects: list[list[Key]] = []
        self._explained = 0.0
        self._late = 0.0

    async def perform(self, keys: list[Key], seconds: float) -> None:
        """Perform the cases, several at once."""
        start = await self._gauges.lag()
        idle_before = self._gauges.idle.lag - Lag()
        waiting = _until(time.monotonic() + seconds, keys)
        watching = asyncio.create_task(self._watch(len(keys)))
        async with asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(self._client(waiting))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        lag = await self._gauges.lag() - start
        idle = self._gauges.idle.lag - idle_before
        self._report.figures["lag under load"] = (
            f"{lag.late:.0f} of {lag.samples:.0f} samples of the gateway above {LAG_LIMIT_SECONDS:g} s, {self._explained:.0f} of them in seconds in which its "
            f"thread waited for a processor; idle loop beside it: {idle.late:.0f} of {idle.samples:.0f}, worst {self._gauges.idle.worst_seconds:.2f} s"
        )
        await self._look_for_rows()

    async def replay(self) -> None:
        """Perform once more, one by one, what ran when the loop was late without a reason of the machine's."""
        wire = self._player.wire()
        confirmed = 0
        for window in self._suspects[:_SUSPECT_WINDOWS]:
            for key in window:
                if await self._is_late(key, wire) and all(
                    [await self._is_late(key, wire) for _ in range(_REPLAYS - 1)]
                ):
                    confirmed += 1
                    self._report.find(f"{key.face}: the loop is late by more than {LAG_LIMIT_SECONDS:g} s", str(key))
        await wire.close()
        replayed = sum(map(len, self._suspects[:_SUSPECT_WINDOWS]))
        self._report.figures["lag confirmed"] = (
            f"{confirmed} cases, of {replayed} replayed from {len(self._suspects)} windows"
        )

    async def _is_late(self, key: Key, wire: object) -> bool:
        before, waited = await self._gauges.lag(), self._gauges.waited_seconds()
        await self._player.play(key, wire)  # type: ignore[arg-type]
        late = (await self._gauges.lag() - before).late
        return late > 0 and self._gauges.waited_seconds() - waited < _WAITED_SECONDS

    async def _client(self, waiting: Iterator[Key]) -> None:
        wire = self._player.wire()
        for key in waiting:
            started = time.monotonic()
            await self._player.play(key, wire)
            self._recent.append((started, time.monotonic(), key))
            self._done += 1
            if not self._gauges.is_alive():
                self._report.find("the gateway has ended", str(key))
                break
        await wire.close()

    async def _watch(self, total: int) -> None:
        lag, waited, told = await self._gauges.lag(), self._gauges.waited_seconds(), time.monotonic()
        while True:
            since = time.monotonic()
            await asyncio.sleep(_WINDOW_SECONDS)
            now, now_waited = await self._gauges.lag(), self._gauges.waited_seconds()
            late = (now - lag).late
            self._late += late
            if late and now_waited - waited < _WAITED_SECONDS * late:
                self._suspects.append([key for _, ended, key in self._recent if ended > since - _WINDOW_SECONDS])
            elif late:
                self._explained += late
            lag, waited = now, now_waited
            if time.monotonic() - told > _REPORT_SECONDS:
                told = time.monotonic()
                self._tell(f"{self._done} of {total} cases, {len(self._report.findings)} faults, {self._late:.0f} late samples, "
                           f"{self._gauges.memory_bytes() / 1024**2:.0f} MiB")  # fmt: skip

    async def _look_for_rows(self) -> None:
        refused, self._player.refused = self._player.refused, []
        for start in range(0, len(refused), 5_000):
            for request_id in await self._gauges.created_by(refused[start : start + 5_000]):
                self._report.find("a refused request has left a row", request_id)
        self._report.figures["refused requests without a row"] = str(len(refused))


async def _noise(gauges: Gauges, report: Report, tell: Callable[[str], None]) -> None:
    tell(f"measuring the machine's noise for {_NOISE_SECONDS:g} s")
    start, idle = await gauges.lag(), gauges.idle.lag - Lag()
    await asyncio.sleep(_NOISE_SECONDS)
    lag, idle = await gauges.lag() - start, gauges.idle.lag - idle
    report.figures["lag without load"] = (
        f"{lag.late:.0f} of {lag.samples:.0f} samples of the gateway above {LAG_LIMIT_SECONDS:g} s; idle loop beside it: {idle.late:.0f} of {idle.samples:.0f}"
    )


async def _settled(gauges: Gauges) -> int:
    """The gateway's memory once it does not fall any more."""
    found = gauges.memory_bytes()
    for _ in range(10):
        await asyncio.sleep(1)
        now = gauges.memory_bytes()
        if now > found * 0.99:
            return now
        found = now
    return found


async def _left_behind(gauges: Gauges, report: Report, since: datetime) -> None:
    for table in ("generation_requests", "generation_batches", "idempotency_keys"):
        left = await gauges.counted(f"SELECT count(*) AS number FROM {table} WHERE owner = :owner", owner=POOR)
        if left:
            report.find(f"a key without a budget has left {left} rows in {table}", "")

    async def no_uploads() -> bool:
        return await gauges.counted("SELECT count(*) AS number FROM batch_uploads") == 0

    try:
        await eventually(no_uploads, within=5, what="parts of uploads are gone")
    except AssertionError as error:
        report.find("parts of uploads are left", str(error))
    await asyncio.sleep(2)
    for row in await gauges.errors(since):
        report.find(
            f"error log of {row['source']}: {row['code']} {row['message'][:200]}",
            f"{row['number']} x, request {row['request_id']}: {row['stack'][-1_000:]}",
        )


async def _memory(gauges: Gauges, report: Report, before: int) -> None:
    after = await _settled(gauges)
    report.figures["memory of the gateway"] = (
        f"{before / 1024**2:.0f} MiB after the warm-up, {after / 1024**2:.0f} MiB after the cases"
    )
    if after > before + MEMORY_MARGIN_BYTES:
        report.find(
            f"memory has grown by more than {MEMORY_MARGIN_BYTES // 1024**2} MiB",
            report.figures["memory of the gateway"],
        )
