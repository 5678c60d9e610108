"""What the manifests need in another place or shape than where it is kept: kustomize reads no files from outside."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
_BASE_FILES = ROOT / "deploy/k8s/base/files"
_RULES = ROOT / "deploy/prometheus"


def copies() -> dict[Path, str]:
    """Each file that is written, with its content."""
    return {
        _BASE_FILES / "catalog.yaml": (ROOT / "catalog.yaml").read_text(),
        _BASE_FILES / "alerts.yaml": (ROOT / "alerts.yaml").read_text(),
        _RULES / "prometheus-rule.yaml": _prometheus_rule(),
    }


def write_copies() -> None:
    """Write them."""
    for path, content in copies().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def _prometheus_rule() -> str:
    """The rules of `deploy/prometheus/rules` as the Prometheus Operator takes them."""
    groups = [group for path in sorted((_RULES / "rules").glob("*.yml")) for group in _groups(path)]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "darkroom"},
        "spec": {"groups": groups},
    }
    return "# Written by `make manifests` from the rules beside it.\n" + yaml.safe_dump(
        rule, sort_keys=False, width=120
    )


def _groups(path: Path) -> list[object]:
    found: list[object] = yaml.safe_load(path.read_text())["groups"]
    return found
