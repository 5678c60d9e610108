"""The form of a recording: parts, each with rows under a name, in canonical names and units."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

Row = dict[str, Any]
"""JSON by canonical name of the field."""
Rows = dict[str, Row]
"""The rows of a part under names that are unique in it, in the order in which they were recorded."""
Tell = Callable[[str], None]
"""Called with a line of progress."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a field may differ between two recordings.

    Attributes:
        field: a pattern of fnmatch for `row: field`.
        absolute: the largest difference that is accepted, in the field's own unit.
        reason: why the field is not the same each time.
    """

    field: str
    absolute: float
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a recording.

    Attributes:
        name: on the command line and in a recording.
        record: makes the rows.
        tolerances: fields that depend on time.
    """

    name: str
    record: Callable[[Tell], Rows]
    tolerances: tuple[Tolerance, ...] = ()


class Recorded(BaseModel):
    """The rows of one part.

    Attributes:
        seconds: how long it took to record them; not compared.
        rows: the rows by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float
    rows: Rows


class Recording(BaseModel):
    """All that was recorded of one commit.

    Attributes:
        commit: of the recorded tree, with `-dirty` after it where files were changed since; not compared.
        parts: by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit: str
    parts: dict[str, Recorded]

    def save(self, path: Path) -> None:
        """Write the recording to a file: one row a line, so that other tools can compare recordings as well."""
        path.write_text(_as_text(self), encoding="utf-8")


def load(path: Path) -> Recording:
    """Read a recording.

    Raises:
        OSError: the file cannot be read.
        pydantic.ValidationError: the file is no recording.
    """
    return Recording.model_validate_json(path.read_text(encoding="utf-8"))


def _as_text(recording: Recording) -> str:
    parts = ",\n".join(f'"{name}": {_part(part)}' for name, part in recording.parts.items())
    return f'{{"commit": {json.dumps(recording.commit)}, "parts": {{\n{parts}\n}}}}\n'


def _part(part: Recorded) -> str:
    rows = ",\n".join(f"{json.dumps(name)}: {_compact(row)}" for name, row in part.rows.items())
    return f'{{"seconds": {part.seconds:.1f}, "rows": {{\n{rows}\n}}}}'


def _compact(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))
