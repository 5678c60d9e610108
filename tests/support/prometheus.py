"""A real Prometheus over a running stack. Where it is not installed, tests say so and how to get it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession

from sandbox.plan import ROOT, SERVICES
from sandbox.processes import free_port
from tests.support.running import Running

DEPLOY = ROOT / "deploy"
is_missing = shutil.which("prometheus") is None or shutil.which("promtool") is None
needed = pytest.mark.skipif(is_missing, reason="needs prometheus and promtool: make prometheus")
_COMPARISON = re.compile(r"\s+(?:>|<|==|!=)=?\s+[\d.]+$")


def promtool(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """What it says."""
    command = [shutil.which("promtool") or "promtool", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)


def panel_queries() -> Iterator[tuple[str, str]]:
    """Each panel's queries, under its board's and its own title."""
    for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                expr = target["expr"].replace("$__rate_interval", "30s")
                yield f"{board['title']} / {panel['title']}", expr


def rule_queries() -> Iterator[tuple[str, str]]:
    """Each rule's query; of an alert, what it holds against its thresholds."""
    for path in sorted((DEPLOY / "prometheus/rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                for part in rule["expr"].split(" and "):
                    yield rule.get("record") or rule["alert"], _COMPARISON.sub("", part)


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def series(self, expr: str) -> int:
        """How many series a query answers with."""
        async with (
            ClientSession() as session,
            session.get(f"{self._url}/api/v1/query", params={"query": expr}) as reply,
        ):
            answer: dict[str, Any] = await reply.json()
        assert answer["status"] == "success", (expr, answer)
        return len(answer["data"]["result"])


def _config(running: Running, folder: Path) -> Path:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus/rules/*.yml")]
    (job,) = config["scrape_configs"]
    for target, service in zip(job["static_configs"], SERVICES, strict=True):
        assert target["labels"] == {"service": service}
        target["targets"] = [f"127.0.0.1:{running.stack.plan.ports.metrics[service]}"]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@asynccontextmanager
async def prometheus(running: Running, folder: Path) -> AsyncIterator[Prometheus]:
    """One that scrapes the stack each second, with the rules that are deployed."""
    port = free_port()
    child = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={_config(running, folder)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        child.terminate()
        await child.wait()
