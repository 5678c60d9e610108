"""`make lint`'s look at the manifests: rendered, held against the schemas of three versions of Kubernetes, and linted.

Sources: the schemas of kubernetes-validate and of the @kubernetes-models packages, which follow Kubernetes' own and the
operators' CRDs; the policies of checkov; the restricted profile of the Pod Security Standards
(https://kubernetes.io/docs/concepts/security/pod-security-standards/), which is spelled out in `restricted.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import kubernetes_validate

from deploy.k8s.copies import ROOT
from deploy.k8s.rendering import OVERLAYS, Document, RenderingFailed, documents, rendered
from deploy.k8s.restricted import violations

VERSIONS = ("1.35", "1.36", "1.37")
_TOOLS = Path(sys.executable).parent.parent
_CHECKOV = _TOOLS / "checkov/bin/checkov"
_CUSTOM = _TOOLS / "kubernetes"
_POLICIES = ROOT / "deploy/k8s/checkov.yaml"
_SECONDS = 180


def main() -> int:
    """Check all overlays, say what was found, and answer how much that is."""
    found: list[str] = []
    for overlay in OVERLAYS:
        try:
            with rendered(overlay) as path:
                faults, told = _check(path)
        except RenderingFailed as error:
            if not shutil.which("kubectl"):
                print(f"Manifests are not checked: {error}.")
                return 0
            faults, told = [str(error)], "not rendered"
        print(f"{overlay}: {told}, {len(faults) or 'no'} findings")
        found += [f"{overlay}: {fault}" for fault in faults]
    print("\n".join(found))
    return len(found)


def _check(path: Path) -> tuple[list[str], str]:
    every = documents(path)
    own: list[Document] = []
    custom: list[Document] = []
    for document in every:
        (own if _is_of_kubernetes(document) else custom).append(document)
    faults = [fault for version in VERSIONS for fault in _schema_faults(own, version)]
    faults += [f"{name_of(document)}: {fault}" for document in every for fault in violations(document)]
    told = [f"{len(own)} resources by the schemas of {', '.join(VERSIONS)} and the restricted profile"]
    if (_CUSTOM / "node_modules").is_dir():
        faults += _custom_faults(custom)
        told.append(f"{len(custom)} custom ones by their CRDs")
    if _CHECKOV.exists():
        passed, failed = _policy_faults(path)
        faults += failed
        told.append(f"{passed} policies of checkov passed")
    return faults, "; ".join(told)


def name_of(document: Document) -> str:
    """Kind and name, for people."""
    return f"{document['kind']}/{document['metadata']['name']}"


def _is_of_kubernetes(document: Document) -> bool:
    group = str(document["apiVersion"]).partition("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and not group.startswith("gateway."))


def _schema_faults(every: Sequence[Document], version: str) -> Iterator[str]:
    for document in every:
        try:
            kubernetes_validate.validate(dict(document), version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name_of(document)} by {version}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{name_of(document)} by {version}: {error.message}"


def _custom_faults(every: Sequence[Document]) -> list[str]:
    done = subprocess.run(
        ["node", "check.mjs"],
        cwd=_CUSTOM,
        input=json.dumps(every),
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    return done.stdout.splitlines() if done.returncode == 0 else [done.stderr.strip()]


def _policy_faults(path: Path) -> tuple[int, list[str]]:
    done = subprocess.run(
        [str(_CHECKOV), "--file", str(path), "--config-file", str(_POLICIES), "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
        env={**os.environ, "LOG_LEVEL": "CRITICAL"},
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return 0, [done.stderr.strip()[-2_000:]]
    failed = report["results"]["failed_checks"]
    return int(report["summary"]["passed"]), [
        f"{one['resource']}: {one['check_id']} {one['check_name']}" for one in failed
    ]
