"""Draws mutants from the files of each subject, with a fixed seed."""

from __future__ import annotations

import random
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from cosmic_ray.mutating import mutate_code
from pydantic import BaseModel, ConfigDict

from tests.mutants.operators import OPERATORS, changed_sql
from tests.suites import ROOT

HERE = Path(__file__).parent
# Decorators of dataclasses, iterables that always have the same length, and comments of SQL.
_NO_BEHAVIOR = re.compile(r"^\s*(?:@|--)|\bstrict=True\b")


class Subject(BaseModel):
    """What mutants are drawn from.

    Attributes:
        name: of the subject.
        files: the source files.
        tests: the test files that run first against each mutant.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    files: list[str]
    tests: list[str]


class Mutant(BaseModel):
    """One line of the source, changed.

    Attributes:
        id: the subject and a number.
        subject: the name of the subject.
        path: the file.
        line: where it stood when it was drawn, from 1.
        before: the line.
        after: what stands in its place.
        killed_by: the test that failed; "" if none did.
        tier: the tests that ran until then: "subject", "fast" (`make test`) or "slow" (`make test-slow`).
        equivalent: why no test can tell it from the source; "" for all others. It is not run.
        replaces: the id of the equivalent mutant that it was drawn in place of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    subject: str
    path: str
    line: int
    before: str
    after: str
    killed_by: str = ""
    tier: str = ""
    equivalent: str = ""
    replaces: str = ""

    def applied(self, source: str) -> str:
        """Return the source with the change, made at the equal line nearest to where it stood.

        Raises ValueError if there is no such line any more.
        """
        lines = source.split("\n")
        places = [place for place, text in enumerate(lines, 1) if text == self.before]
        if not places:
            raise ValueError(f"{self.id}: {self.path} has no line {self.before!r} any more; draw the mutants again")
        nearest = min(places, key=lambda place: abs(place - self.line))
        lines[nearest - 1] = self.after
        return "\n".join(lines)


def subjects() -> list[Subject]:
    """Return the subjects of subjects.toml. Raises pydantic's ValidationError for a table that is none."""
    found: dict[str, Any] = tomllib.loads((HERE / "subjects.toml").read_text(encoding="utf-8"))
    return [Subject.model_validate(one) for one in found["subject"]]


def draw(number: int, seed: int) -> list[Mutant]:
    """Draw so many mutants, as many of each subject as of the others, no two of the same line."""
    chance = random.Random(seed)
    listed = subjects()
    found = []
    for place, subject in enumerate(listed):
        of_subject = number // len(listed) + (place < number % len(listed))
        by_line = _by_line(subject)
        for index, line in enumerate(chance.sample(sorted(by_line), of_subject), 1):
            mutant = chance.choice(by_line[line])
            found.append(mutant.model_copy(update={"id": f"{subject.name}-{index}"}))
    return found


def replacements(mutants: Sequence[Mutant], seed: int) -> list[Mutant]:
    """Draw one more for each equivalent mutant that has no replacement, of its subject and of a line of its own."""
    chance = random.Random(seed)
    taken = {(mutant.path, mutant.line) for mutant in mutants}
    replaced = {mutant.replaces for mutant in mutants}
    subject_of = {subject.name: subject for subject in subjects()}
    found = []
    for equivalent in (mutant for mutant in mutants if mutant.equivalent and mutant.id not in replaced):
        by_line = _by_line(subject_of[equivalent.subject])
        line = chance.choice(sorted(set(by_line) - taken))
        taken.add(line)
        update = {"id": f"{equivalent.id}-replacement", "replaces": equivalent.id}
        found.append(chance.choice(by_line[line]).model_copy(update=update))
    return found


def _by_line(subject: Subject) -> dict[tuple[str, int], list[Mutant]]:
    by_line: dict[tuple[str, int], list[Mutant]] = defaultdict(list)
    for path in subject.files:
        for mutant in _of_file(subject.name, path):
            by_line[path, mutant.line].append(mutant)
    return by_line


def _of_file(subject: str, path: str) -> Iterator[Mutant]:
    source = (ROOT / path).read_text(encoding="utf-8")
    for mutated in changed_sql(source) if path.endswith(".sql") else _changed_python(source):
        changed = list(islice(_changed_lines(source, mutated), 2))
        if len(changed) == 1 and not _NO_BEHAVIOR.search(changed[0][1]):
            line, before, after = changed[0]
            yield Mutant(id="", subject=subject, path=path, line=line, before=before, after=after)


def _changed_python(source: str) -> Iterator[str]:
    for kind in OPERATORS:
        for occurrence in count():
            mutated = mutate_code(source, kind(), occurrence)
            if mutated is None:
                break
            yield mutated


def _changed_lines(source: str, mutated: str) -> Iterator[tuple[int, str, str]]:
    before, after = source.split("\n"), mutated.split("\n")
    if len(before) == len(after):
        pairs = zip(before, after, strict=True)
        yield from ((line, old, new) for line, (old, new) in enumerate(pairs, 1) if old != new)
