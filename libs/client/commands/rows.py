"""Requests out of a JSONL or CSV file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.json_format import ParseDict, ParseError

from libs.client.errors import DarkroomError

_NUMBERS = {"number_of_outputs", "priority", "reuse_within_seconds"}
_LISTS = {"input_images", "fallback_models", "depends_on"}


def requests(path: Path) -> list[gateway_pb2.CreateGenerationRequest]:
    """The requests of a file, one a line. DarkroomError with every line at fault.

    JSONL: an object a line, as REST takes it. CSV: a heading a column, with `parameters.seed` and `labels.team` for
    what is inside, and lists by `|`.
    """
    read = _of_csv if path.suffix.lower() == ".csv" else _of_jsonl
    found, faults = [], {}
    for number, values in read(path):
        try:
            if isinstance(values, Exception):
                raise values
            found.append(ParseDict(values, gateway_pb2.CreateGenerationRequest()))
        except (ParseError, ValueError, TypeError) as error:
            faults[f"line {number}"] = str(error)[:300]
    if faults:
        raise DarkroomError("INVALID_REQUEST", f"{path} has faults.", fields=faults)
    return found


def _of_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, error


def _of_csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            yield number, _values(row)


def _values(row: Mapping[str | None, str | None]) -> dict[str, Any] | ValueError:
    values: dict[str, Any] = {}
    for heading, text in row.items():
        if heading is None or text is None:
            return ValueError("it has more or fewer fields than the heading")
        if not text:
            continue
        outer, _, inner = heading.partition(".")
        if inner:
            values.setdefault(outer, {})[inner] = text if outer == "labels" else _guessed(text)
        elif heading in _LISTS:
            values[heading] = text.split("|")
        else:
            values[heading] = _guessed(text) if heading in _NUMBERS else text
    return values


def _guessed(text: str) -> Any:
    """A number, true or false where it reads like one; else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
