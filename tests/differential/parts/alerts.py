"""Prometheus' alert rules: their names, severities and durations, and the outcome of their tests by promtool."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.differential.recording import Part, Row, Rows, Tell
from tests.support.prometheus import DEPLOY, promtool

_RULES, _TESTS = DEPLOY / "prometheus/rules", DEPLOY / "prometheus/tests"


def record(tell: Tell) -> Rows:
    """Record a row for each alert, and one for each group of series of the test files.

    Raises:
        RuntimeError: promtool is not installed.
    """
    if shutil.which("promtool") is None:
        raise RuntimeError("The part `alerts` needs promtool, which is not installed: run make prometheus.")
    found: Rows = {f"alert {rule['alert']}": _of_alert(rule) for rule in _alerts()}
    for path in sorted(_TESTS.glob("*.yml")):
        tell(path.name)
        found |= _of_tests(path)
    return found


def _groups() -> list[dict[str, Any]]:
    """Return all rule groups, recording rules before alerts. By default promtool uses any order."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(_RULES.glob("*.yml"))]
    groups = [group for file in files for group in file["groups"]]
    return sorted(groups, key=lambda group: any("alert" in rule for rule in group["rules"]))


def _alerts() -> Iterator[dict[str, Any]]:
    for group in _groups():
        yield from (rule for rule in group["rules"] if "alert" in rule)


def _of_alert(rule: dict[str, Any]) -> Row:
    annotations = rule.get("annotations", {})
    return {
        "severity": rule.get("labels", {}).get("severity"),
        "for": rule.get("for", "0s"),
        "summary": annotations.get("summary"),
        "runbook_url": annotations.get("runbook_url"),
    }


def _of_tests(path: Path) -> Rows:
    """Run each group of series of a test file alone. Its rules may lie in other files than the commit before had."""
    whole = yaml.safe_load(path.read_text())
    common = {
        "rule_files": [str(rules) for rules in sorted(_RULES.glob("*.yml"))],
        "group_eval_order": [group["name"] for group in _groups()],
    }
    found: Rows = {}
    with TemporaryDirectory(prefix="darkroom-alerts-") as folder:
        for number, group in enumerate(whole["tests"], start=1):
            alone = Path(folder) / "alone.yml"
            alone.write_text(yaml.safe_dump({**whole, **common, "tests": [group]}))
            said = promtool("test", "rules", alone)
            name = group.get("name") or f"group {number}"
            found[f"test {path.stem}: {name}"] = {
                "passes": said.returncode == 0,
                "expects": [_expected(case) for case in group.get("alert_rule_test", [])],
            }
    return found


def _expected(case: dict[str, Any]) -> str:
    fires = [" ".join(f"{k}={v}" for k, v in sorted(one["exp_labels"].items())) for one in case.get("exp_alerts") or []]
    return f"{case['alertname']} at {case['eval_time']}: {'; '.join(fires) or 'does not fire'}"


PART = Part("alerts", record)
