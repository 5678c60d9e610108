"""Compares two recordings, and shows the differences as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.differential.recording import Recording, Rows, Tolerance

ABSENT = "(absent)"
"""Stands for a part, row or field that one of the recordings does not have."""
_PRESENT = "(present)"
_SHOWN_ROWS = 10
_SHOWN_FIELDS = 12
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """A field whose values differ.

    Attributes:
        part: the part of the recording.
        row: the name of the row; empty: the part as a whole.
        field: the path of the field within its row; empty: the row as a whole.
        before, after: the values as JSON, or ABSENT.
    """

    part: str
    row: str
    field: str
    before: str
    after: str


def compare(before: Recording, after: Recording, tolerances: Mapping[str, Sequence[Tolerance]]) -> list[Difference]:
    """Return all differences, in the order of the rows.

    Args:
        before: the earlier recording.
        after: the later recording.
        tolerances: by part, how far fields may differ.
    """
    found: list[Difference] = []
    for name in dict.fromkeys((*before.parts, *after.parts)):
        old, new = before.parts.get(name), after.parts.get(name)
        if old is None or new is None:
            found.append(Difference(name, "", "", *_presence(old is not None, new is not None)))
        else:
            found += _of_rows(name, old.rows, new.rows, tolerances.get(name, ()))
    return found


def _of_rows(part: str, before: Rows, after: Rows, tolerances: Sequence[Tolerance]) -> Iterator[Difference]:
    for name in dict.fromkeys((*before, *after)):
        if name not in before or name not in after:
            yield Difference(part, name, "", *_presence(name in before, name in after))
            continue
        old, new = dict(_fields(before[name])), dict(_fields(after[name]))
        for field in dict.fromkeys((*old, *new)):
            values = old.get(field, ABSENT), new.get(field, ABSENT)
            if values[0] != values[1] and not _is_tolerated(f"{name}: {field}", *values, tolerances):
                yield Difference(part, name, field, *values)


def _presence(is_before: bool, is_after: bool) -> tuple[str, str]:
    return _PRESENT if is_before else ABSENT, _PRESENT if is_after else ABSENT


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each leaf of a value with its path. An empty list or object is a leaf."""
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _fields(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for index, part in enumerate(value):
            yield from _fields(part, f"{path}[{index}]")
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def _is_tolerated(field: str, before: str, after: str, tolerances: Sequence[Tolerance]) -> bool:
    """Whether two values, as JSON, are numbers that differ by no more than a tolerance of the field."""
    allowed = [tolerance.absolute for tolerance in tolerances if fnmatchcase(field, tolerance.field)]
    try:
        return bool(allowed) and abs(float(before) - float(after)) <= max(allowed)
    except ValueError:
        return False


def show(differences: Sequence[Difference], before: Recording, after: Recording, console: Console) -> None:
    """Print for each part its first differing rows, and a summary."""
    for part, group in groupby(differences, key=lambda difference: difference.part):
        _show_part(part, list(group), console)
    counts = ", ".join(f"{name} {count}" for name, count in _counts(differences, before, after).items())
    console.print(f"{before.commit} → {after.commit}: differing fields by part: {counts}", markup=False)


def _show_part(part: str, differences: Sequence[Difference], console: Console) -> None:
    rows = list(dict.fromkeys(difference.row for difference in differences))
    table = Table("row", "field", "before", "after", title=f"{part}: {len(rows)} rows differ", title_justify="left")
    for row in rows[:_SHOWN_ROWS]:
        own = [difference for difference in differences if difference.row == row]
        for difference in own[:_SHOWN_FIELDS]:
            values = (difference.row, difference.field, difference.before, difference.after)
            table.add_row(*(_shortened(value) for value in values))
        if len(own) > _SHOWN_FIELDS:
            table.add_row(_shortened(row), f"and {len(own) - _SHOWN_FIELDS} fields more", "", "")
    console.print(table, markup=False)
    if len(rows) > _SHOWN_ROWS:
        console.print(f"{part}: {len(rows) - _SHOWN_ROWS} differing rows more", markup=False)


def _shortened(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return shown.replace("[", r"\[")


def _counts(differences: Sequence[Difference], before: Recording, after: Recording) -> dict[str, int]:
    names = dict.fromkeys((*before.parts, *after.parts))
    return {name: sum(difference.part == name for difference in differences) for name in names}
