"""From a message to JSON: camelCase, every field there, short words of enums, numbers as numbers."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from libs.common.rpc.words import descriptor_of, short

_PLAIN = {"google.protobuf.Struct", "google.protobuf.Timestamp"}
_LONG = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64}


def to_json(message: Message) -> dict[str, Any]:
    """The message as JSON values. Fields that know whether they are set are left out where they are not."""
    values: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return _speak(descriptor_of(message), values)


def _speak(descriptor: Descriptor, values: dict[str, Any]) -> dict[str, Any]:
    for field in descriptor.fields:
        if field.json_name in values:
            values[field.json_name] = _value(field, values[field.json_name])
    return values


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return [_word(field, word) for word in value] if field.is_repeated else _word(field, value)
    if field.type in _LONG:
        # A string in the protobuf mapping; ours are sizes, which every JSON number holds.
        return [int(number) for number in value] if field.is_repeated else int(value)
    inner = field.message_type
    if inner is None or inner.full_name in _PLAIN or inner.GetOptions().map_entry:
        return value
    return [_speak(inner, item) for item in value] if field.is_repeated else _speak(inner, value)


def _word(field: FieldDescriptor, word: str | int) -> str | int:
    enum = field.enum_type
    known = enum.values_by_name.get(word) if enum is not None and isinstance(word, str) else None
    return short(known) if known is not None else word
