"""The simulated vendors' ledger says truly what is owed."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from sandbox.simulators.behaviour import Behaviour
from sandbox.simulators.world import World

RUNS, HAS_ENDED = 600.0, 0.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "vendors.sqlite")


def _submit(world: World, *, seconds: float, failure: str | None = None) -> None:
    behaviour = Behaviour(task_seconds=seconds)
    world.add_task("v", task_id="t", model="m", prompt="p", request={}, behaviour=behaviour, failure=failure, inputs=2)
    world.bill("v", task_id="t", model="m", prompt="p", outputs=1, price_usd=0.04)


def _outcome(world: World) -> tuple[str, bool]:
    (bill,) = world.bills()
    return bill["outcome"], bill["is_refunded"]


@pytest.mark.parametrize(
    ("seconds", "failure", "expected"),
    [
        (RUNS, None, ("running", False)),
        (RUNS, "failed", ("running", False)),
        (HAS_ENDED, None, ("succeeded", False)),
        (HAS_ENDED, "moderated", ("failed", True)),
    ],
)
def test_a_task_is_owed_for_unless_it_fails(
    world: World, seconds: float, failure: str | None, expected: tuple[str, bool]
) -> None:
    _submit(world, seconds=seconds, failure=failure)
    assert _outcome(world) == expected
    assert world.bills()[0]["inputs"] == 2


def test_a_cancel_before_the_end_takes_the_bill_back(world: World) -> None:
    _submit(world, seconds=RUNS)
    assert world.cancel("t")
    assert _outcome(world) == ("cancelled", True)
    assert not world.cancel("t")


def test_a_cancel_that_comes_too_late_changes_nothing(world: World) -> None:
    _submit(world, seconds=HAS_ENDED)
    assert not world.cancel("t")
    assert _outcome(world) == ("succeeded", False)
    task = world.task("v", "t")
    assert task is not None
    assert not task.cancelled


def test_a_deleted_task_is_gone_and_its_bill_stays(world: World) -> None:
    _submit(world, seconds=HAS_ENDED)
    world.delete("t")
    assert world.task("v", "t") is None
    assert _outcome(world) == ("succeeded", False)


def test_a_file_of_an_older_version_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "vendors.sqlite"
    older = World(path)
    _submit(older, seconds=RUNS)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 0")
    assert World(path).bills() == []
    _submit(World(path), seconds=RUNS)
    assert len(World(path).bills()) == 1
