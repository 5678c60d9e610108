"""What is deployed beside the services works on what they show: each query of each panel and rule returns data."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
import yaml

from deploy.grafana.__main__ import FOLDER
from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import to_json
from sandbox.plan import SERVICES
from tests.conftest import StartStack
from tests.support.asked import asked, create, ended
from tests.support.http import call
from tests.support.prometheus import DEPLOY, Prometheus, needed, panel_queries, prometheus, promtool, rule_queries
from tests.support.receiver import receiver
from tests.support.running import Running
from tests.support.simulator import FAILS, simulated
from tests.support.waiting import eventually


@pytest.mark.parametrize("board", BOARDS, ids=[board.uid for board in BOARDS])
def test_the_dashboards_are_those_that_the_code_makes(board: object) -> None:
    (found,) = [one for one in BOARDS if one is board]
    assert (FOLDER / f"{found.uid}.json").read_text() == to_json(found), "run make dashboards"


@needed
@pytest.mark.slow
def test_the_rules_are_clean_and_fire_when_they_should() -> None:
    rules = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    for said in (
        promtool("check", "rules", *rules),
        promtool("check", "config", DEPLOY / "prometheus/prometheus.yml"),
        *(promtool("test", "rules", path) for path in sorted((DEPLOY / "prometheus/tests").glob("*.yml"))),
    ):
        assert said.returncode == 0, said.stdout + said.stderr


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    files = [yaml.safe_load(path.read_text()) for path in (DEPLOY / "prometheus/rules").glob("*.yml")]
    alerts = {rule["alert"] for file in files for group in file["groups"] for rule in group["rules"] if "alert" in rule}
    tests = [yaml.safe_load(path.read_text())["tests"] for path in (DEPLOY / "prometheus/tests").glob("*.yml")]
    cases = [case for groups in tests for group in groups for case in group["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


async def _use(running: Running, callback_url: str) -> None:
    """A little of everything, so that each series is there."""
    fault = [{"operation": "submit", "kind": "429", "times": 1}]
    prompts = {
        "flux-pro": simulated("seen", task_seconds=0.1),
        "gpt-image-1": simulated("seen at once", task_seconds=0.1),
    }
    ids = [await running.create(model, prompt, callback_url=callback_url) for model, prompt in prompts.items()]
    ids.append(await running.create("flux-pro", simulated("fails", task_seconds=0.1, faults=FAILS)))
    ids.append(await running.create("flux-pro", simulated("again", task_seconds=0.1, faults=fault)))
    lost = [{"operation": "submit", "kind": "reset", "after": True}]
    ids.append(await running.create("flux-pro", simulated("at risk", task_seconds=0.1, faults=lost)))
    for generation_id in ids:
        await running.ended(generation_id)
    await ended(running.gateway, await create(running.gateway, [asked("of a batch"), asked("another")]))
    await call(running.gateway_url(), "/api/external/models", key=running.admin_key)
    await call(running.gateway_url(), "/api/webhooks/bfl", method="POST", json_body={})


@needed
@pytest.mark.timeout(300)
@pytest.mark.slow
async def test_every_query_returns_data_from_a_running_stack(
    start_stack: StartStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    channel = {"DARKROOM_SLACK_WEBHOOK_URL": "http://127.0.0.1:9/nobody"}
    running = await start_stack(services=SERVICES, settings=channel)
    queries = [*panel_queries(), *rule_queries()]
    async with receiver() as hook, prometheus(running, tmp_path) as found:
        await _use(running, hook.url)

        async def empty() -> list[tuple[str, str]]:
            return [(name, expr) for name, expr in queries if not await found.series(expr)]

        async def all_answer() -> bool:
            return not await empty()

        try:
            await eventually(all_answer, within=40, what="each query returns series")
        finally:
            await _print(found, queries, capsys)
    for service in SERVICES:
        url = f"http://127.0.0.1:{running.stack.plan.ports.metrics[service]}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            said = promtool("check", "metrics", given=await reply.text())
        assert (said.returncode, said.stdout + said.stderr) == (0, ""), service


async def _print(found: Prometheus, queries: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    counts = [(await found.series(expr), name) for name, expr in queries]
    with capsys.disabled():
        print(f"\n{sum(1 for number, _ in counts if number)} of {len(counts)} queries return series:")
        for number, name in counts:
            print(f"  {number:4} {name}")
