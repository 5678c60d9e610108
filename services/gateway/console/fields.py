"""What forms hold, read field by field; what is wrong with them is told all at once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

from aiohttp import web
from multidict import MultiDict, MultiDictProxy

from libs.common.errors import FieldViolation, InvalidRequest
from services.gateway.console.viewer import current_viewer

_LARGEST_WHOLE = 2**31 - 1


class Written(dict[str, str]):
    """What stands in the fields of a form; empty where nothing does."""

    def __missing__(self, name: str) -> str:
        """Nothing was written."""
        return ""


class Fields:
    """A form. Each reader answers as if nothing was given where it notes a fault."""

    def __init__(self, form: MultiDictProxy[str | bytes | bytearray | web.FileField]) -> None:
        self._form = form
        self._faults: list[FieldViolation] = []

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """The same for words of a query."""
        given: MultiDict[str | bytes | bytearray | web.FileField] = MultiDict(values)
        return cls(MultiDictProxy(given))

    def text(self, name: str) -> str:
        """A text, without the blanks around it. Empty where there is none."""
        value = self._form.get(name, "")
        return value.strip().replace("\r\n", "\n") if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        """All that was given by that name, without what is blank."""
        return [value.strip() for value in self._form.getall(name, []) if isinstance(value, str) and value.strip()]

    def is_set(self, name: str) -> bool:
        """Whether a box is ticked."""
        return bool(self.text(name))

    def content(self, name: str) -> bytes:
        """The bytes of a file. Empty where none was chosen."""
        value = self._form.get(name)
        return value.file.read() if isinstance(value, web.FileField) else b""

    def number(self, name: str) -> float | None:
        """A number; None where none was given."""
        text = self.text(name)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self._faults.append(FieldViolation(name, "number", "must be a number"))
            return None
        return value

    def whole(self, name: str) -> int | None:
        """A whole number of 32 bits; None where none was given."""
        value = self.number(name)
        if value is None:
            return None
        if not value.is_integer() or abs(value) > _LARGEST_WHOLE:
            self._faults.append(FieldViolation(name, "whole", "must be a whole number"))
            return None
        return int(value)

    def json_object(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where none was given."""
        text = self.text(name)
        try:
            value = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self._faults.append(FieldViolation(name, "json", 'must be a JSON object, for instance {"seed": 7}'))
            return {}
        return value

    def time(self, name: str) -> datetime | None:
        """A point in time as browsers send it, in the viewer's zone; None where none was given."""
        text = self.text(name)
        if not text:
            return None
        try:
            found = datetime.fromisoformat(text)
            local = found if found.tzinfo else found.replace(tzinfo=current_viewer().zone)
            return local.astimezone(UTC)
        except (ValueError, OverflowError):
            self._faults.append(FieldViolation(name, "time", "must be a point in time"))
            return None

    def check(self) -> None:
        """InvalidRequest with all that is wrong with what was read."""
        if self._faults:
            raise InvalidRequest(self._faults)

    def written(self) -> Written:
        """All texts as they were written, to be shown again."""
        return Written({name: value for name, value in self._form.items() if isinstance(value, str)})
