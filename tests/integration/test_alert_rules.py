"""Each rule: rows make it fire once, it reaches people, keeps quiet, and ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from grpc_health.v1 import health, health_pb2_grpc
from yarl import URL

from libs.common.catalog import CatalogHolder
from libs.common.database.engine import Database
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.alerts import AlertStore, Decision
from libs.common.database.stores.deliveries import DeliveryQueue
from libs.common.database.stores.errors import ErrorStore
from libs.common.database.stores.instances import InstanceStore
from libs.common.database.stores.statistics import StatisticsStore
from libs.common.rpc.channel import open_channel
from libs.common.settings import Settings
from libs.common.storage.objects import ObjectStore
from sandbox.plan import SHIPPED_ALERT_RULES
from sandbox.processes import free_port
from services.monitor.board import Board
from services.monitor.checks import AdapterChecks, ServiceCheck, StorageCheck
from services.monitor.delivering import Delivering
from services.monitor.emergency import Emergency
from services.monitor.evaluating import Evaluating
from services.monitor.rules import RulesHolder
from services.monitor.statistics import Statistics
from tests.support.alerting import Desk, desk, rules_text
from tests.support.infrastructure import Infrastructure
from tests.support.rows import execute, insert, new_generation, rows
from tests.support.waiting import eventually

_ALWAYS_DOWN = {"threshold: 30": "threshold: 0", "threshold: 10,": "threshold: 0,"}


@dataclass
class Monitor:
    """The parts of a monitor that find and tell, over a database of their own."""

    database: Database
    evaluating: Evaluating
    delivering: Delivering
    statistics: Statistics
    board: Board
    path: Path

    async def turn(self) -> None:
        """All that its loops do, once."""
        await self.statistics.fold()
        await self.board.look()
        await self.evaluating.evaluate()
        await self.delivering.deliver()
        await self.delivering.drain()

    async def alerts(self) -> list[dict[str, Any]]:
        """All alerts, the oldest first."""
        return await rows(self.database, "SELECT * FROM system_alerts ORDER BY id")


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path) as found:
        yield found


MakeMonitor = Callable[..., Awaitable[Monitor]]


@pytest.fixture
async def monitor(
    database: Database, told: Desk, tmp_path: Path, shared: Infrastructure, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakeMonitor]:
    closers: list[Callable[[], Awaitable[None]]] = []

    async def make(*, changes: Mapping[str, str] | None = None, settings: Settings | None = None) -> Monitor:
        for name, value in told.environment.items():
            monkeypatch.setenv(name, value)
        text = rules_text(SHIPPED_ALERT_RULES.read_text(), told)
        for old, new in (changes or {}).items():
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "alerts.yaml"
        path.write_text(text)
        catalog_path, _ = shared.catalog(tmp_path, _with_daily_limit)
        catalog, rules = CatalogHolder(catalog_path), RulesHolder(path)
        counts = StatisticsStore(database)
        adapters = AdapterChecks(catalog, AccountStore(database), counts)
        checks: list[Any] = [adapters]
        if settings is not None:
            objects, channel = ObjectStore(settings), open_channel(settings.poller_address, settings)
            checks += [StorageCheck(objects), ServiceCheck("poller", channel)]
            closers.extend([objects.close, channel.close])
        board = Board(checks)
        emergency = Emergency(board, rules, console_url=None)
        closers.extend([adapters.close, board.close, *(channel.close for channel in rules.current.channels.values())])
        return Monitor(
            database,
            Evaluating(AlertStore(database, owner="test"), rules, catalog, board, emergency),
            Delivering(
                DeliveryQueue(database, owner="test", lease_seconds=30), rules, console_url="https://console.example"
            ),
            Statistics(counts, ErrorStore(database), InstanceStore(database)),
            board,
            path,
        )

    yield make
    for close in closers:
        await close()


def _with_daily_limit(catalog: dict[str, Any]) -> None:
    catalog["providers"]["bfl"].setdefault("limits", {})["daily_spend_usd"] = 10


async def _generations(database: Database, number: int, **changes: Any) -> list[str]:
    made = [new_generation(**changes) for _ in range(number)]
    await insert(database, made)
    return [generation.id for generation in made]


async def _end(database: Database, ids: list[str], state: str, code: str = "") -> None:
    error = f"""'{{"code": "{code}", "message": "x", "details": {{}}, "is_retryable": false}}'""" if code else "NULL"
    outputs = "'[]'" if state == "SUCCESS" else "NULL"
    await execute(
        database,
        f"""UPDATE generation_requests SET state = '{state}', ended_at = now(), error = {error}, outputs = {outputs}
        WHERE id = ANY(:ids)""",
        ids=ids,
    )


async def _most_fail(database: Database) -> None:
    ids = await _generations(database, 30)
    await _end(database, ids[:12], "SUCCESS")
    await _end(database, ids[12:], "FAILED", "PROVIDER_UNAVAILABLE")


async def _tasks_time_out(database: Database) -> None:
    ids = await _generations(database, 25)
    await execute(
        database,
        """INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, strategy, poll_interval_ms,
            next_poll_at, deadline_at)
        SELECT 'bfl', id, id, 'flux', 'fixed', 1000, now(), now() FROM unnest(CAST(:ids AS text[])) AS id""",
        ids=ids,
    )
    end = """UPDATE poll_tasks SET state = '{}', ended_at = now(), last_error = {} WHERE task_id = ANY(:ids)"""
    await execute(database, end.format("SUCCESS", "NULL"), ids=ids[:18])
    await execute(database, end.format("FAILED", """'{"code": "TASK_TIMEOUT"}'"""), ids=ids[18:])


async def _sent_again(database: Database) -> None:
    (generation,) = await _generations(database, 1)
    await execute(
        database,
        """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at)
        SELECT 'sub_' || n, :id, n, 'bfl', 'NOT_ACCEPTED', now() FROM generate_series(1, 5) AS n""",
        id=generation,
    )


async def _circuit_opens(database: Database) -> None:
    await execute(
        database,
        """INSERT INTO provider_accounts (provider_id, breaker_state, breaker_changed_at)
        VALUES ('bfl', 'OPEN', now())""",
    )


async def _waits(database: Database) -> None:
    ids = await _generations(database, 2)
    await execute(
        database,
        "UPDATE generation_requests SET created_at = now() - interval '11 minutes' WHERE id = ANY(:ids)",
        ids=ids,
    )


async def _spends(database: Database) -> None:
    await execute(
        database,
        """INSERT INTO provider_accounts (provider_id, spend_day, spend_usd)
        VALUES ('bfl', (now() AT TIME ZONE 'UTC')::date, 9.5)""",
    )


async def _uncertain(database: Database) -> None:
    (generation,) = await _generations(database, 1)
    await execute(
        database,
        """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at)
        VALUES ('sub_u', :id, 1, 'bfl', 'UNCERTAIN', now())""",
        id=generation,
    )


_OLD = "UPDATE statistics SET at = at - interval '2 hours' WHERE period = 'minute'"
CASES: dict[str, tuple[Callable[[Database], Awaitable[None]], str]] = {
    "ERROR_RATE_HIGH": (_most_fail, _OLD),
    "TASK_TIMEOUT": (_tasks_time_out, _OLD),
    "RETRIES_EXCEEDED": (_sent_again, "UPDATE submissions SET started_at = now() - interval '2 hours'"),
    "API_DOWN": (_circuit_opens, "UPDATE provider_accounts SET breaker_state = 'CLOSED'"),
    "QUEUE_STALLED": (_waits, "UPDATE generation_requests SET created_at = now()"),
    "BUDGET_SPENT": (_spends, "UPDATE provider_accounts SET spend_usd = 1"),
    "SUBMISSION_UNCERTAIN": (
        _uncertain,
        "UPDATE submissions SET resolution = 'DISMISSED', resolved_at = now() WHERE state = 'UNCERTAIN'",
    ),
}


@pytest.mark.parametrize("rule", CASES)
async def test_a_rule_fires_once_is_told_everywhere_keeps_quiet_and_ends_by_itself(
    rule: str, monitor: MakeMonitor, told: Desk
) -> None:
    found = await monitor(changes=_ALWAYS_DOWN)
    await found.turn()
    assert await found.alerts() == []

    make, clear = CASES[rule]
    await make(found.database)
    await found.turn()
    (alert,) = await found.alerts()
    assert (alert["type"], alert["subject"].removeprefix("provider:"), alert["state"]) == (rule, "bfl", "FIRING")
    assert alert["value"] > alert["threshold"]
    assert told.counts() == (1, 1, 1)
    assert told.events() == ["alert.firing"]
    _says_what(told, alert)

    for _ in range(3):
        await found.turn()
    assert told.counts() == (1, 1, 1), "within its interval it is not told again"

    await execute(found.database, clear)
    await found.turn()
    (alert,) = await found.alerts()
    assert alert["state"] == "RESOLVED"
    assert told.events() == ["alert.firing", "alert.resolved"]
    assert told.counts() == (2, 2, 2)
    await found.turn()
    assert told.counts() == (2, 2, 2)


def _says_what(told: Desk, alert: Mapping[str, Any]) -> None:
    """Each channel says what, how much against which threshold, since when, and where to look."""
    (mail,) = told.mailbox.messages
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert alert["type"] in mail["Subject"]
    for part in (text.get_content(), html.get_content()):
        for word in (alert["message"], "threshold", "UTC", f"https://console.example/monitoring/alerts#{alert['id']}"):
            assert word in part, (word, part)
    payload = told.webhook.received[0].verified(told.secret)
    (shown,) = payload["data"]["alerts"]
    assert (shown["id"], shown["message"], shown["threshold"]) == (alert["id"], alert["message"], alert["threshold"])
    blocks = told.slack.received[0].json["blocks"]
    assert [block["type"] for block in blocks] == ["header", "section"]
    assert alert["message"] in blocks[1]["text"]["text"]


@pytest.mark.parametrize("rule", ["STORAGE_DOWN", "SERVICE_DOWN"])
async def test_what_is_away_is_told_everywhere_once_and_its_return_too(
    rule: str, monitor: MakeMonitor, told: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, service = await _Door.to(str(settings.s3_endpoint_url)), free_port()
    monkeypatch.setenv("DARKROOM_S3_ENDPOINT_URL", f"http://127.0.0.1:{storage.port}")
    monkeypatch.setenv("DARKROOM_POLLER_ADDRESS", f"127.0.0.1:{service}")
    monkeypatch.setenv("DARKROOM_SERVICE_TOKEN", "x" * 40)
    found = await monitor(changes=_ALWAYS_DOWN, settings=Settings())
    server = await _healthy_server(service)
    await found.turn()
    assert await found.alerts() == []

    if rule == "STORAGE_DOWN":
        await storage.close()
    else:
        await server.stop(grace=None)
    await _until(found, lambda alerts: [alert["state"] for alert in alerts] == ["FIRING"])
    (alert,) = await found.alerts()
    assert (alert["type"], alert["subject"], alert["severity"]) == (
        rule,
        "poller" if rule == "SERVICE_DOWN" else "",
        "CRITICAL",
    )
    assert (told.counts(), told.events()) == ((1, 1, 1), ["alert.firing"])
    await found.turn()
    assert told.counts() == (1, 1, 1)

    if rule == "STORAGE_DOWN":
        await storage.open()
    else:
        server = await _healthy_server(service)
    await _until(found, lambda alerts: [alert["state"] for alert in alerts] == ["RESOLVED"])
    assert (told.counts(), told.events()) == ((2, 2, 2), ["alert.firing", "alert.resolved"])
    await server.stop(grace=None)
    await storage.close()


class _Door:
    """A port that leads to another, and can be shut."""

    def __init__(self, host: str, to_port: int) -> None:
        self.port, self._host, self._to_port = free_port(), host, to_port
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    async def to(cls, url: str) -> _Door:
        parsed = URL(url)
        door = cls(parsed.host or "", parsed.port or 80)
        await door.open()
        return door

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", self.port)

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        on_reader, on_writer = await asyncio.open_connection(self._host, self._to_port)
        self._writers |= {writer, on_writer}

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while content := await source.read(65_536):
                    target.write(content)
            target.close()

        await asyncio.gather(pass_on(reader, on_writer), pass_on(on_reader, writer))
        self._writers -= {writer, on_writer}


async def _healthy_server(port: int) -> grpc.aio.Server:
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server


async def _until(found: Monitor, is_so: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Turn until the alerts are so: a channel needs a moment to find its server again."""

    async def turned() -> bool:
        await found.turn()
        return is_so(await found.alerts())

    await eventually(turned, within=15, what="the alerts are so")


async def test_what_explains_another_keeps_it_quiet_and_what_outlives_it_is_told(
    monitor: MakeMonitor, told: Desk
) -> None:
    found = await monitor(changes=_ALWAYS_DOWN)
    await _circuit_opens(found.database)
    await _most_fail(found.database)
    await found.turn()
    assert {alert["type"]: alert["quiet_because"] for alert in await found.alerts()} == {
        "API_DOWN": None,
        "ERROR_RATE_HIGH": "explained by API_DOWN of bfl",
    }
    assert told.counts() == (1, 1, 1)
    await execute(found.database, "UPDATE provider_accounts SET breaker_state = 'CLOSED'")
    await found.turn()
    names = [alert["type"] for request in told.webhook.received for alert in request.json["data"]["alerts"]]
    assert sorted(names) == ["API_DOWN", "API_DOWN", "ERROR_RATE_HIGH"]


async def test_alerts_of_one_turn_go_out_together(monitor: MakeMonitor, told: Desk) -> None:
    found = await monitor()
    await _uncertain(found.database)
    await _spends(found.database)
    await _sent_again(found.database)
    await found.turn()
    assert len(await found.alerts()) == 3
    assert told.counts() == (1, 1, 1)
    assert len(told.webhook.received[0].json["data"]["alerts"]) == 3


async def test_a_notice_is_tried_again_with_the_same_id_and_each_attempt_is_recorded(
    monitor: MakeMonitor, told: Desk
) -> None:
    told.webhook.answer = lambda number: web.Response(status=503 if number == 0 else 204)
    told.mailbox.refuses = True
    found = await monitor()
    await _uncertain(found.database)
    await found.turn()
    await execute(found.database, "UPDATE alert_deliveries SET next_attempt_at = now()")
    told.mailbox.refuses = False
    await found.turn()
    attempts = await rows(
        found.database,
        """SELECT d.channel, a.attempt, a.error FROM alert_attempts a JOIN alert_deliveries d ON d.id = a.delivery_id
        ORDER BY d.channel, a.attempt""",
    )
    assert [(a["channel"], a["attempt"], a["error"]) for a in attempts] == [
        ("email", 1, "The mail server answered 451."),
        ("email", 2, None),
        ("slack", 1, None),
        ("webhook", 1, "The receiver answered 503."),
        ("webhook", 2, None),
    ]
    first, second = told.webhook.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert told.counts() == (1, 2, 1)


async def test_a_critical_alert_that_nobody_takes_is_escalated_once(monitor: MakeMonitor, told: Desk) -> None:
    found = await monitor(changes={**_ALWAYS_DOWN, "after_seconds: 900": "after_seconds: 0.001"})
    await _circuit_opens(found.database)
    for _ in range(4):
        await found.turn()
    assert told.events() == ["alert.firing", "alert.escalated"]


async def test_one_replica_evaluates_and_another_takes_over_when_it_is_gone(
    monitor: MakeMonitor, database: Database
) -> None:
    found = await monitor()
    await found.turn()
    (turn,) = await rows(database, "SELECT owner FROM monitor_turns WHERE name = 'evaluate'")
    assert turn["owner"] == "test"
    other = AlertStore(database, owner="other")

    async def evaluates() -> bool:
        return (
            await other.evaluate(lambda _: Decision(), windows=(), repeat_windows=(), patience_seconds=60) is not None
        )

    assert not await evaluates()
    await execute(database, "UPDATE monitor_turns SET done_at = now() - interval '2 minutes'")
    assert await evaluates()
