"""`google.protobuf.Struct` and JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value


def from_struct(struct: Struct) -> dict[str, Any]:
    """The values of a Struct. Its numbers are all doubles; whole ones become int again, so that a seed is a seed.

    Numbers that JSON has no word for (NaN, the infinities) stay floats, for a schema to refuse.
    """
    return {key: from_value(value) for key, value in struct.fields.items()}


def to_struct(values: Mapping[str, Any]) -> Struct:
    """JSON values as a Struct."""
    struct = Struct()
    struct.update(dict(values))
    return struct


def from_value(value: Value) -> Any:
    """A JSON value; whole numbers are int."""
    match value.WhichOneof("kind"):
        case "number_value":
            return int(value.number_value) if value.number_value.is_integer() else value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [from_value(item) for item in value.list_value.values]
        case _:
            return None
