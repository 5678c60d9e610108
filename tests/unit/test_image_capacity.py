"""As many image workers as the control group has processors and memory for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libs.common.imaging.capacity import ControlGroup, cores, fitting

MACHINE = len(os.sched_getaffinity(0))


def _group(folder: Path, of_process: str, files: dict[str, str]) -> ControlGroup:
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (folder / "cgroup").write_text(of_process)
    return ControlGroup(folder / "groups", folder / "cgroup")


@pytest.mark.parametrize(
    ("of_process", "files", "processors"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/pod/one\n", {"pod/one/cpu.max": "max 100000", "pod/cpu.max": "50000 100000"}, 0.5),
        ("0::/not/mounted/here\n", {"cpu.max": "150000 100000"}, 1.5),
        ("1:cpu:/docker/x\n0::/\n", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0),
        ("4:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1"}, None),
        ("", {}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
    ],
)
def test_the_lowest_quota_of_processors_counts(
    tmp_path: Path, of_process: str, files: dict[str, str], processors: float | None
) -> None:
    group = _group(tmp_path, of_process, files)
    assert group.processors() == processors
    assert cores(group) == (MACHINE if processors is None else min(MACHINE, max(1, -(-processors // 1))))


def test_a_quota_below_one_processor_is_one_worker(tmp_path: Path) -> None:
    assert cores(_group(tmp_path, "0::/\n", {"cpu.max": "10000 100000"})) == 1


@pytest.mark.parametrize(
    ("limit", "wanted", "expected"),
    [
        ("max", 0, (MACHINE, 1_500_000_000)),
        ("99000000000", 3, (3, 1_500_000_000)),
        ("2100000000", 0, (1, 1_500_000_000)),
        ("1610612736", 0, (1, 1_098_612_736)),
        ("1512000000", 2, (2, 500_000_000)),
        ("600000000", 2, (2, 400_000_000)),
    ],
)
def test_workers_fit_into_the_memory_beside_the_service(
    tmp_path: Path, limit: str, wanted: int, expected: tuple[int, int]
) -> None:
    group = _group(tmp_path, "0::/\n", {"memory.max": limit})
    assert fitting(wanted, 1_500_000_000, group) == expected


def test_the_memory_of_the_first_version_of_control_groups_counts_too(tmp_path: Path) -> None:
    group = _group(tmp_path, "4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "2512000000"})
    assert fitting(2, 1_500_000_000, group) == (2, 1_000_000_000)
