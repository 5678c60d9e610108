"""The state machines of claims, batches and money with a fixed seed: the rule of each step, and what it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import getmembers
from traceback import extract_tb
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from hypothesis.reporting import with_reporter
from hypothesis.stateful import INVARIANT_MARKER, RuleStrategy, invariant, run_state_machine_as_test

from libs.common.database.engine import Database
from tests.differential.aliases import Aliases
from tests.differential.clocked import advance, clocked_database
from tests.differential.projection import Snapshot, break_ties, claimed_id, snapshot
from tests.differential.recording import Part, Row, Rows, Tell
from tests.fault.test_any_batch import Batches
from tests.fault.test_any_interleaving import Interleaving
from tests.fault.test_any_money import Money
from tests.support.machines import DatabaseMachine

_SEED = 24
_STEP_SECONDS = 0.02
RECORDS = "each_step_is_recorded"
"""The invariant that records; Hypothesis reports it as a step of the machine."""
_CLAIMS = frozenset({"claim", "rescue"})


class _InOrder:
    """A store whose claims come in the order of their ids: that of the rows of an UPDATE follows from its plan."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return partial(_in_order, found) if name in _CLAIMS else found


async def _in_order(claim: Any, *arguments: Any, **options: Any) -> list[Any]:
    return sorted(
        await claim(*arguments, **options), key=lambda claimed: (len(claimed_id(claimed)), claimed_id(claimed))
    )


class _Log:
    """The steps of all runs of a machine.

    Args:
        kind: the machine.
        tell: called with a line of progress for each run.
    """

    def __init__(self, kind: type[DatabaseMachine], tell: Tell) -> None:
        self.rows: Rows = {}
        self._not_rules = ("teardown(", *(f"{name}(" for name, _ in getmembers(kind, _is_invariant)), f"{RECORDS}(")
        self._tell = tell
        self._lines: list[str] = []
        self._run, self._step = 0, 0
        self._aliases, self._before = Aliases(), Snapshot()

    def heard(self, line: object) -> None:
        """Take a line that Hypothesis reports: the call of a rule, or a value that a rule has drawn."""
        said = str(line).removeprefix("state.")
        if str(line).startswith(("state.", "Draw ")) and not said.startswith(self._not_rules):
            self._lines.append(said)

    def begin(self) -> None:
        """Begin another run on an empty database."""
        self._run, self._step = self._run + 1, 0
        self._aliases, self._before, self._lines = Aliases(), Snapshot(), []
        self._tell(f"run {self._run}")

    def step(self, after: Snapshot, name: str = "") -> None:
        """Record the rule that was called last and the fields that it has changed."""
        self._step += 1
        changed = self._aliases.within(_changed(self._before, after))
        # Draws come before the call of the rule that made them, which is reported when it has returned.
        call = self._aliases.within(self._lines[-1:] + self._lines[:-1])
        self.rows[f"run {self._run:02} step {self._step:02}"] = {"rule": name or " | ".join(call), "changed": changed}
        self._before, self._lines = after, []

    def fail(self, error: AssertionError) -> None:
        """Record which assertion of the machine, or of the code under it, does not hold."""
        place = extract_tb(error.__traceback__)[-1]
        self._tell(f"an assertion in {place.name} does not hold: {place.line}")
        self.rows["failure"] = {"function": place.name, "assertion": place.line}


def _is_invariant(member: Any) -> bool:
    return hasattr(member, INVARIANT_MARKER)


def _changed(before: Snapshot, after: Snapshot) -> Row:
    """By table and id, the fields that differ; of a new row all, of one that is gone `gone`."""
    found: Row = {}
    for table, rows in after.items():
        earlier = before.get(table, {})
        changes: Row = {
            key: _differing(earlier.get(key, {}), row) for key, row in rows.items() if earlier.get(key) != row
        }
        changes |= {key: {"gone": True} for key in earlier if key not in rows}
        if changes:
            found[table] = changes
    return found


def _differing(before: Row, after: Row) -> Row:
    return {
        name: value for name, value in after.items() if name != "id" and (name not in before or before[name] != value)
    }


def _recorded(kind: type[DatabaseMachine], log: _Log) -> type[DatabaseMachine]:
    """The machine with a log of its steps; rules, invariants and draws are its own."""

    class Recorded(kind):  # type: ignore[valid-type,misc]
        def __init__(self) -> None:
            super().__init__()
            _put_in_order(self)
            log.begin()

        @invariant()
        def each_step_is_recorded(self) -> None:
            self._do(break_ties(self.database))
            self._do(advance(self.database, _STEP_SECONDS))
            log.step(self._do(snapshot(self.database)))

        def teardown(self) -> None:
            super().teardown()
            log.step(self._do(snapshot(self.database)), "end of the run")

    return Recorded


def _put_in_order(machine: Any) -> None:
    """Have all stores of a machine hand out claims in the order of their ids."""
    dispatchers = [machine.dispatcher] if hasattr(machine, "dispatcher") else list(machine.dispatchers.values())
    for dispatcher in dispatchers:
        dispatcher.claims = _InOrder(dispatcher.claims)
    for stores in (getattr(machine, "pollers", {}), getattr(machine, "storers", {})):
        for owner, store in stores.items():
            stores[owner] = _InOrder(store)


@contextmanager
def _same_draws() -> Iterator[None]:
    """Have Hypothesis draw the same from a seed whatever the source says, and all rules in each run.

    It would draw constants that stand in the project's source, which differ between commits, and leave some of the
    rules out of each run, so that most runs do little.
    """
    with (
        mock.patch.object(providers, "_get_local_constants", Constants),
        mock.patch.object(RuleStrategy, "_rule_is_enabled", RuleStrategy.is_valid),
    ):
        providers.CONSTANTS_CACHE.cache.clear()
        yield


def _run(kind: type[DatabaseMachine], url: str, log: _Log, *, runs: int, steps: int) -> None:
    loop = asyncio.new_event_loop()
    database = Database(url, size=2, statement_timeout_seconds=10, application_name="differential")
    own = {"database": database, "loop": loop, "reached": set()}
    machine = seed(_SEED)(type(kind.__name__, (_recorded(kind, log),), own))
    wanted = settings(
        max_examples=runs,
        stateful_step_count=steps,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=False,
        verbosity=Verbosity.debug,
        suppress_health_check=list(HealthCheck),
    )
    try:
        with with_reporter(log.heard), _same_draws():
            run_state_machine_as_test(machine, settings=wanted)
    finally:
        loop.run_until_complete(database.close())
        loop.close()


def _record(kind: type[DatabaseMachine], runs: int, steps: int, tell: Tell) -> Rows:
    """Record so many runs with so many steps each; where an invariant does not hold, until then, and which it was."""
    log = _Log(kind, tell)
    with clocked_database() as url:
        try:
            _run(kind, url, log, runs=runs, steps=steps)
        except AssertionError as error:
            log.fail(error)
    return log.rows


INTERLEAVING = Part("interleaving", partial(_record, Interleaving, 60, 40))
BATCHES = Part("batches", partial(_record, Batches, 25, 30))
MONEY = Part("money", partial(_record, Money, 40, 40))
