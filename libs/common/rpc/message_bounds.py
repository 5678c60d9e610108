"""How many values a request may hold: counted before any handler looks at them."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from libs.common.errors import FieldViolation, InvalidRequest

VALUES_LIMIT = 20_000
# For each message of a list in the request itself, for instance for each request of a batch.
ITEM_VALUES_LIMIT = 2_000
# Smaller messages cannot hold more values than a handler reads within milliseconds.
COUNTED_ABOVE_BYTES = 16 * 1024


def check(message: Message) -> None:
    """InvalidRequest for a request of more than 20,000 values, or of 2,000 in one message of a list within it."""
    count = 0
    for field, value in message.ListFields():
        if field.is_repeated and field.message_type is not None and not field.message_type.GetOptions().map_entry:
            count += len(value)
            _require(count, VALUES_LIMIT, field.name)
            for index, item in enumerate(value):
                _require(_count(item, ITEM_VALUES_LIMIT), ITEM_VALUES_LIMIT, f"{field.name}[{index}]")
        else:
            count += _count_field(field, value, VALUES_LIMIT - count)
            _require(count, VALUES_LIMIT, field.name)


def _require(count: int, limit: int, path: str) -> None:
    if count > limit:
        raise InvalidRequest([FieldViolation(path, "values", f"must hold at most {limit:,} values")])


def _count(message: Message, limit: int) -> int:
    """The values of a message; of one with more than `limit`, any number above it."""
    count = 0
    for field, value in message.ListFields():
        count += _count_field(field, value, limit - count)
        if count > limit:
            break
    return count


def _count_field(field: FieldDescriptor, value: Any, limit: int) -> int:
    if not field.is_repeated:
        return 1 + (_count(value, limit) if isinstance(value, Message) else 0)
    count = len(value)
    if field.message_type is None or count > limit:
        return count
    is_map = field.message_type.GetOptions().map_entry
    items = value.values() if is_map else value
    for item in items:
        if not isinstance(item, Message) or count > limit:
            break
        count += _count(item, limit - count)
    return count
