"""Volumes as the kubelet lays them out: files are links into a folder that is exchanged as a whole."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_versions = itertools.count()


def lay_out(folder: Path, files: Mapping[str, str]) -> None:
    """Let `folder` hold these files; whoever looks sees all of the old ones or all of the new."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "..data"
    before = data.resolve() if data.is_symlink() else None
    version = folder / f"..version-{next(_versions)}"
    version.mkdir()
    for name, content in files.items():
        (version / name).write_text(content)
    fresh = folder / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.replace(data)
    for name in files:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    if before is not None:
        shutil.rmtree(before)


def files_of(
    volume: Mapping[str, Any], configs: Mapping[str, Mapping[str, str]], secrets: Mapping[str, Mapping[str, str]]
) -> dict[str, str] | None:
    """What a volume of a manifest holds; None for one that is not of files. KeyError where something is missing."""
    if "configMap" in volume:
        return dict(configs[volume["configMap"]["name"]])
    if "secret" in volume:
        return dict(secrets[volume["secret"]["secretName"]])
    if "projected" not in volume:
        return None
    found: dict[str, str] = {}
    for source in volume["projected"]["sources"]:
        wanted = source["secret"]
        if wanted["name"] not in secrets and wanted.get("optional"):
            continue
        found |= secrets[wanted["name"]]
    return found
