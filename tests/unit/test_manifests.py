"""The manifests agree with the code: copies are fresh, ports and drains fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.k8s.copies import copies
from deploy.k8s.restricted import violations
from deploy.k8s.secrets import write_secrets
from libs.common.settings import Settings
from sandbox.plan import ROOT, SERVICES

BASE = ROOT / "deploy/k8s/base"


def _documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def _settings() -> dict[str, str]:
    lines = (BASE / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("path", copies(), ids=lambda path: path.name)
def test_copies_are_fresh(path: Path) -> None:
    assert path.read_text() == copies()[path], "`make manifests` writes it anew"


def test_settings_are_settings() -> None:
    known = {f"DARKROOM_{name.upper()}" for name in Settings.model_fields}
    assert set(_settings()) <= known


@pytest.mark.parametrize("service", SERVICES)
def test_ports_and_grace_fit_the_defaults(service: str) -> None:
    fields = Settings.model_fields
    (deployment,) = (one for one in _documents(BASE / f"{service}.yaml") if one["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports["grpc"] == fields[f"{service}_port"].default
    assert ports["metrics"] == fields[f"{service}_metrics_port"].default
    drain = fields["submit_drain_seconds" if service == "dispatcher" else "drain_seconds"].default
    delay = float(_settings()["DARKROOM_DRAIN_DELAY_SECONDS"])
    # Loops get ten seconds to end their turns, work its drain, RPCs theirs.
    assert pod["terminationGracePeriodSeconds"] >= delay + 10 + drain + fields["drain_seconds"].default


def test_addresses_are_those_of_the_services() -> None:
    names = {
        document["metadata"]["name"]: {port["port"] for port in document["spec"]["ports"]}
        for service in SERVICES
        for document in _documents(BASE / f"{service}.yaml")
        if document["kind"] == "Service"
    }
    for name, value in _settings().items():
        if name.endswith("_ADDRESS") and "_PER_" not in name:
            host, _, port = value.removeprefix("dns:///").partition(":")
            assert int(port) in names[host]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"securityContext": {}}, "allowPrivilegeEscalation"),
        ({"ports": [{"hostPort": 80}]}, "port of the host"),
    ],
)
def test_what_the_restricted_profile_refuses_is_found(change: dict[str, Any], fault: str) -> None:
    context = {
        "allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container = {"name": "service", "securityContext": context}

    def deployment(container: dict[str, Any]) -> dict[str, Any]:
        return {"kind": "Deployment", "spec": {"template": {"spec": {"containers": [container]}}}}

    assert list(violations(deployment(container))) == []
    assert any(fault in found for found in violations(deployment(container | change)))


def test_secrets_are_written_once_and_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert len(write_secrets(folder)) == 6
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert write_secrets(folder) == []
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.iterdir()))
