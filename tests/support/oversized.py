"""Requests of which one field is too large, made from the descriptors of the protos: for gRPC, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

ITEMS = 300_000
CHARACTERS = 1024**2
_STRUCT = "google.protobuf.Struct"
_CLOSED = {"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"}
_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Oversized:
    """A field that is too large. `path`: the fields that lead to it, the field itself included."""

    path: tuple[FieldDescriptor, ...]

    @property
    def name(self) -> str:
        """The path as text, `requests.labels`."""
        return ".".join(field.name for field in self.path)

    def on_the_wire(self) -> bytes:
        """The field in its message, to be appended to a serialized request."""
        content = _wire(self.path[-1])
        for field in reversed(self.path[:-1]):
            content = _delimited(field.number, content)
        return content

    def in_json(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a request in JSON with the field in it; parents that are lists have one more item."""
        return _merged(base, self.path)


def oversized_fields(
    message: Descriptor, parents: tuple[FieldDescriptor, ...] = (), depth: int = _DEPTH
) -> Iterator[Oversized]:
    """Each list, map, text and Struct that a message may hold, at any depth."""
    for field in message.fields:
        path, kind = (*parents, field), field.message_type
        is_map = kind is not None and kind.GetOptions().map_entry
        is_struct = kind is not None and kind.full_name == _STRUCT
        is_text = kind is None and field.cpp_type == FieldDescriptor.CPPTYPE_STRING
        if field.is_repeated or is_struct or is_text:
            yield Oversized(path)
        if is_text and field.is_repeated:
            continue
        if kind is not None and not is_map and not is_struct and kind.full_name not in _CLOSED and depth:
            yield from oversized_fields(kind, path, depth - 1)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


@cache
def _entries(number: int) -> bytes:
    """A map's entries with texts as keys, and nothing as values."""
    return b"".join(_delimited(number, _delimited(1, b"k%06d" % index)) for index in range(ITEMS))


def _wire(field: FieldDescriptor) -> bytes:
    kind = field.message_type
    if kind is not None and kind.full_name == _STRUCT and not field.is_repeated:
        return _delimited(field.number, _entries(1))
    if kind is not None and kind.GetOptions().map_entry:
        return _entries(field.number)
    if not field.is_repeated:
        return _delimited(field.number, b"x" * CHARACTERS)
    if kind is not None:
        return _delimited(field.number, b"") * ITEMS
    message = GetMessageClass(cast("Descriptor", field.containing_type))()
    getattr(message, field.name).append(_scalar(field))
    return bytes(message.SerializeToString()) * ITEMS


def _scalar(field: FieldDescriptor) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return b"x" if field.type == FieldDescriptor.TYPE_BYTES else "x"
    return True if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else 1


def _json(field: FieldDescriptor) -> Any:
    kind = field.message_type
    if kind is not None and (kind.GetOptions().map_entry or (kind.full_name == _STRUCT and not field.is_repeated)):
        return {f"k{index:06}": "x" for index in range(ITEMS)}
    if not field.is_repeated:
        return "x" * CHARACTERS
    return [{} if kind is not None else _json_scalar(field)] * ITEMS


def _json_scalar(field: FieldDescriptor) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values[-1].name
    value = _scalar(field)
    return "eA==" if isinstance(value, bytes) else value


def _merged(base: Mapping[str, Any], path: tuple[FieldDescriptor, ...]) -> dict[str, Any]:
    field, *following = path
    if not following:
        return {**base, field.json_name: _json(field)}
    given = base.get(field.json_name)
    if field.is_repeated:
        items = list(given or [])
        return {**base, field.json_name: [*items, _merged(items[0] if items else {}, tuple(following))]}
    return {**base, field.json_name: _merged(given or {}, tuple(following))}
