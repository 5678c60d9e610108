"""From JSON, paths and queries to a message, or to every fault at once, each with the path as the caller wrote it.

Names are taken in camelCase and as the protos have them, words of enums with and without their prefix. Source of the
rest: the protobuf JSON mapping, https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.rpc.words import descriptor_of, number_of, short
from services.gateway.rest.bindings import Binding

_DEPTH_LIMIT = 32
# Beyond it a double, which a Struct's numbers are, no longer tells integers apart.
_EXACT_INTEGER = 2**53
_INDEXED = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")
_RANGES = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}
_FLOATS = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}


class Reader:
    """Reads one request. `names`: how the caller wrote each field of the request, by its name in the proto."""

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []
        self.names: dict[str, str] = {}

    def read(
        self, binding: Binding, *, body: bytes, path: Mapping[str, str], query: Iterable[tuple[str, str]]
    ) -> Message:
        """The request that a call makes. InvalidRequest with every fault."""
        message = binding.request()
        if binding.takes_body:
            self._read_body(message, body)
            for name, _ in query:
                self._fault(name, "unknown", "unknown: this route takes its fields in the body")
        else:
            if body:
                self._fault("body", "unknown", "this route takes no body")
            self.read_query(message, query)
        for name, value in path.items():
            if self._is_text(value, name):
                setattr(message, name, value)
        if self.found:
            raise InvalidRequest(self.found)
        return message

    def read_json(self, message: Message, text: bytes, path: str) -> None:
        """Fill a message with a JSON text, or note every fault below `path`."""
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            self._fault(path or "body", "json", f"must be JSON: {str(error)[:200]}")
            return
        self._read_message(message, value, path, 0)

    def read_query(self, message: Message, query: Iterable[tuple[str, str]]) -> None:
        """Fill a message with the fields of a query, or note every fault."""
        for name, text in query:
            indexed = _INDEXED.fullmatch(name)
            field = self._field(descriptor_of(message), indexed[1] if indexed else name, name)
            if field is None or not self._is_text(text, name):
                continue
            if _is_map(field):
                if indexed is None:
                    self._fault(name, "map", f"write it as {name}[key]=value")
                else:
                    self._put(message, field, indexed[2], _from_text(_value_of(field), text), name)
            elif indexed:
                self._fault(name, "unknown", "unknown")
            elif field.is_repeated:
                self._append(message, field, [_from_text(field, text)], name, 0)
            else:
                self._set(message, field, _from_text(field, text), name, 0)

    def _fault(self, path: str, rule: str, description: str) -> None:
        self.found.append(FieldViolation(path[:200], rule, description))

    def _read_body(self, message: Message, body: bytes) -> None:
        if body.strip():
            self.read_json(message, body, "")

    def _field(self, descriptor: Descriptor, name: str, path: str) -> FieldDescriptor | None:
        field = descriptor.fields_by_name.get(name) or _by_json_name(descriptor).get(name)
        if field is None:
            near = difflib.get_close_matches(name, [known.json_name for known in descriptor.fields], n=1)
            self._fault(path, "unknown", "unknown" + (f"; did you mean {near[0]}?" if near else ""))
        elif "." not in path and "[" not in path:
            self.names[field.name] = name
        return field

    def _read_message(self, message: Message, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, dict):
            self._fault(path or "body", "type", "must be an object")
            return
        if depth > _DEPTH_LIMIT:
            self._fault(path, "depth", f"must not be nested more than {_DEPTH_LIMIT} deep")
            return
        seen: set[str] = set()
        for name, inner in value.items():
            inner_path = f"{path}.{name}" if path else name
            field = self._field(descriptor_of(message), name, inner_path)
            if field is None or inner is None:
                continue
            if field.name in seen:
                self._fault(inner_path, "twice", "given twice")
                continue
            seen.add(field.name)
            other = _chosen(message, field)
            if other is not None:
                self._fault(inner_path, "one_of", f"must not be set beside {other}")
            elif _is_map(field):
                self._read_map(message, field, inner, inner_path)
            elif field.is_repeated:
                self._append(message, field, inner, inner_path, depth)
            else:
                self._set(message, field, inner, inner_path, depth)

    def _read_map(self, message: Message, field: FieldDescriptor, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            self._fault(path, "type", "must be an object")
            return
        for key, inner in value.items():
            self._put(message, field, key, inner, f"{path}.{key}")

    def _put(self, message: Message, field: FieldDescriptor, key: str, value: Any, path: str) -> None:
        """Put a value into a map of scalars."""
        if not self._is_text(key, path):
            return
        scalar = self._scalar(_value_of(field), value, path)
        if scalar is not None:
            getattr(message, field.name)[key] = scalar

    def _append(self, message: Message, field: FieldDescriptor, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, list):
            self._fault(path, "type", "must be an array")
            return
        items = getattr(message, field.name)
        for index, inner in enumerate(value):
            inner_path = f"{path}[{index}]"
            if field.message_type is not None:
                self._fill(items.add(), inner, inner_path, depth)
                continue
            scalar = self._scalar(field, inner, inner_path)
            if scalar is not None:
                items.append(scalar)

    def _set(self, message: Message, field: FieldDescriptor, value: Any, path: str, depth: int) -> None:
        if field.message_type is None:
            scalar = self._scalar(field, value, path)
            if scalar is not None:
                setattr(message, field.name, scalar)
            return
        self._fill(getattr(message, field.name), value, path, depth)

    def _fill(self, message: Message, value: Any, path: str, depth: int) -> None:
        """Fill a message within another, by its own kind of JSON where it has one."""
        if isinstance(message, Struct):
            self.read_struct(message, value, path)
        elif isinstance(message, Timestamp):
            self._read_time(message, value, path)
        elif isinstance(message, Value):
            if self._is_plain(value, path, 0):
                ParseDict(value, message)
        else:
            message.SetInParent()
            self._read_message(message, value, path, depth + 1)

    def _read_time(self, time: Timestamp, value: Any, path: str) -> None:
        try:
            time.FromJsonString(value)
        except (ValueError, TypeError, AttributeError):
            self._fault(path, "time", "must be a time such as 2026-11-25T08:30:00Z (RFC 3339)")

    def read_struct(self, struct: Struct, value: Any, path: str) -> None:
        """Fill a Struct with a JSON object, as far as a Struct can hold it; else note why not."""
        if not isinstance(value, dict):
            self._fault(path, "type", "must be an object")
        elif self._is_plain(value, path, 0):
            struct.update(value)

    def _is_plain(self, value: Any, path: str, depth: int) -> bool:
        if depth > _DEPTH_LIMIT:
            self._fault(path, "depth", f"must not be nested more than {_DEPTH_LIMIT} deep")
            return False
        if isinstance(value, dict):
            faults = [
                key
                for key, inner in value.items()
                if not (self._is_text(key, path) and self._is_plain(inner, f"{path}.{key}", depth + 1))
            ]
            return not faults
        if isinstance(value, list):
            places = [n for n, inner in enumerate(value) if not self._is_plain(inner, f"{path}[{n}]", depth + 1)]
            return not places
        if isinstance(value, str):
            return self._is_text(value, path)
        if isinstance(value, int) and abs(value) > _EXACT_INTEGER:
            self._fault(
                path, "range", f"must be from -{_EXACT_INTEGER} to {_EXACT_INTEGER}, as JSON tells numbers apart"
            )
            return False
        return not isinstance(value, float) or self._is_finite(value, path)

    def _scalar(self, field: FieldDescriptor, value: Any, path: str) -> Any:
        plain = {
            FieldDescriptor.TYPE_STRING: self._text,
            FieldDescriptor.TYPE_BYTES: self._bytes,
            FieldDescriptor.TYPE_BOOL: self._truth,
        }
        if field.type in plain:
            return plain[field.type](value, path)
        if field.type == FieldDescriptor.TYPE_ENUM:
            return self._word(field, value, path)
        if field.type in _FLOATS:
            return self._number(value, path)
        return self._integer(field, value, path)

    def _text(self, value: Any, path: str) -> str | None:
        return value if self._is_text(value, path) else None

    def _truth(self, value: Any, path: str) -> bool | None:
        if not isinstance(value, bool):
            self._fault(path, "type", "must be true or false")
            return None
        return value

    def _bytes(self, value: Any, path: str) -> bytes | None:
        if not self._is_text(value, path):
            return None
        try:
            return b64decode(value, validate=True)
        except ValueError:
            self._fault(path, "base64", "must be base64")
            return None

    def _word(self, field: FieldDescriptor, value: Any, path: str) -> int | None:
        number = number_of(_enum(field), value)
        if number is None:
            words = ", ".join(sorted(_short_words(field)))
            self._fault(path, "one_of", f"must be one of {words}")
        return number

    def _number(self, value: Any, path: str) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fault(path, "type", "must be a number")
            return None
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        return number if self._is_finite(number, path) else None

    def _integer(self, field: FieldDescriptor, value: Any, path: str) -> int | None:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._fault(path, "type", "must be a whole number")
            return None
        low, high = _RANGES[field.type]
        if not low <= value <= high:
            self._fault(path, "range", f"must be from {low} to {high}")
            return None
        return value

    def _is_finite(self, value: float, path: str) -> bool:
        if not math.isfinite(value):
            self._fault(path, "range", "must be a finite number")
            return False
        return True

    def _is_text(self, value: Any, path: str) -> bool:
        if not isinstance(value, str):
            self._fault(path, "type", "must be a text")
            return False
        try:
            value.encode()
        except UnicodeEncodeError:
            self._fault(path.encode(errors="replace").decode(), "unicode", "must be valid Unicode")
            return False
        return True


@cache
def _by_json_name(descriptor: Descriptor) -> Mapping[str, FieldDescriptor]:
    return {field.json_name: field for field in descriptor.fields}


def _chosen(message: Message, field: FieldDescriptor) -> str | None:
    """The field of the same oneof that is set already. A field that is merely optional has a oneof of its own."""
    return message.WhichOneof(field.containing_oneof.name) if field.containing_oneof is not None else None


def _value_of(field: FieldDescriptor) -> FieldDescriptor:
    """What a map holds."""
    entry = field.message_type
    if entry is None:
        raise TypeError(f"{field.full_name} is no map")
    return entry.fields_by_name["value"]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _enum(field: FieldDescriptor) -> EnumDescriptor:
    assert field.enum_type is not None
    return field.enum_type


def _short_words(field: FieldDescriptor) -> list[str]:
    return [short(value) for value in _enum(field).values if value.number]


def _from_text(field: FieldDescriptor, text: str) -> Any:
    """A query's text as the JSON value it stands for; what stands for none stays text, for its type to be refused."""
    if field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM} or field.message_type is not None:
        return text
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "false": False}.get(text, text)
    try:
        return float(text) if field.type in _FLOATS else int(text)
    except ValueError:
        return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
