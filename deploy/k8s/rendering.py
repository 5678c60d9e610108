"""The overlays as kubectl renders them, document by document."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from deploy.k8s.copies import ROOT
from deploy.k8s.secrets import write_secrets

OVERLAYS = ("dev", "production")

Document = Mapping[str, Any]
"""One resource of Kubernetes, as YAML has it."""


class RenderingFailed(Exception):
    """kubectl is not here, or does not take what stands there. The message says why."""


@contextmanager
def rendered(overlay: str) -> Iterator[Path]:
    """A file with all of an overlay, rendered beside secrets that are made for it. RenderingFailed where that fails."""
    with TemporaryDirectory(prefix="darkroom-manifests-") as folder:
        copy = Path(folder) / "deploy"
        shutil.copytree(ROOT / "deploy", copy, ignore=shutil.ignore_patterns("secrets", "__pycache__"))
        write_secrets(copy / "k8s/overlays/dev/secrets")
        found = Path(folder) / f"{overlay}.yaml"
        found.write_text(_run(["kubectl", "kustomize", str(copy / "k8s/overlays" / overlay)]))
        yield found


def documents(path: Path) -> Sequence[Document]:
    """What a rendered file holds."""
    return list(yaml.safe_load_all(path.read_text()))


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError as error:
        raise RenderingFailed(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        raise RenderingFailed(done.stderr.strip())
    return done.stdout
