"""`google.protobuf.Struct` and JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct


def from_struct(struct: Struct) -> dict[str, Any]:
    """The values of a Struct. Its numbers are all doubles; whole ones become int again, so that a seed is a seed."""
    return {key: _whole(value) for key, value in MessageToDict(struct).items()}


def to_struct(values: Mapping[str, Any]) -> Struct:
    """JSON values as a Struct."""
    struct = Struct()
    struct.update(dict(values))
    return struct


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value
