"""How many values a request may hold: counted in its bytes, before the parser makes an object of each.

The encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.struct_pb2 import Struct

from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.rpc.semaphores import KeyedSemaphores, owner_or_key
from libs.common.rpc.shares import current_holder

VALUES_LIMIT = 20_000
# For each message of a list in the request itself, for instance for each request of a batch.
ITEM_VALUES_LIMIT = 2_000
# For each Struct of the request itself, such as `parameters`: 2,000 values of JSON, with a key each.
STRUCT_VALUES_LIMIT = 8_000
# For all messages of such lists together: 1,000 requests of 400 values.
ITEMS_VALUES_LIMIT = 400_000
# Smaller messages cannot hold more values than a handler reads within milliseconds.
COUNTED_ABOVE_BYTES = 16 * 1024
# How many are counted before other calls have their turn: a few milliseconds.
_TURN = 2_000
# Of each owner, one message that needs more than one turn is counted at a time, because turns of many calls in a row
# delay others like a long one.
_counting = KeyedSemaphores()

_STRUCT: Descriptor = Struct.DESCRIPTOR
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
# Ten bytes, of which a parser reads no more either.
_VARINT_BITS = 70
_TEXT = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}


async def check(message: bytes, kind: Descriptor) -> None:
    """Count the values of a serialized request; each key of a map is one.

    Bytes that are no message are left to the parser, which reads no further than this does.

    Args:
        message: the bytes.
        kind: the type of the request.

    Raises:
        InvalidRequest: more than 20,000 values, 8,000 in a Struct, 2,000 in one message of a list within it, or
            400,000 in all of those.
    """
    counts = _counts(message, kind)
    if _is_short(counts):
        return
    async with _counting.get(owner_or_key(current_holder()), 1):
        turn = 0
        for count in counts:
            turn += count
            if turn > _TURN:
                turn = 0
                await asyncio.sleep(0)


def _is_short(counts: Iterator[int]) -> bool:
    """Count values for one turn. Return whether that was all."""
    turn = 0
    for count in counts:
        turn += count
        if turn > _TURN:
            return False
    return True


def _counts(message: bytes, kind: Descriptor) -> Iterator[int]:
    """Yield the number of values in each field of a request. Raises as `check`."""
    own = of_items = 0
    indexes: Counter[str] = Counter()
    for number, start, end in _records(message, 0, len(message)):
        field = kind.fields_by_number.get(number)
        own += 1
        if field is not None and _is_item(field):
            count = count_nested(message, start, end, field, ITEM_VALUES_LIMIT)
            _require(count, ITEM_VALUES_LIMIT, f"{field.name}[{indexes[field.name]}]")
            indexes[field.name] += 1
            of_items += count
            _require(of_items, ITEMS_VALUES_LIMIT, field.name)
        else:
            is_struct = field is not None and field.message_type is _STRUCT
            limit = STRUCT_VALUES_LIMIT if is_struct else VALUES_LIMIT - own
            count = count_nested(message, start, end, field, limit)
            if is_struct and field is not None:
                _require(count, limit, field.name)
            own += count
        _require(own, VALUES_LIMIT, field.name if field is not None else str(number))
        yield 1 + count


def _is_item(field: FieldDescriptor) -> bool:
    return field.is_repeated and field.message_type is not None and not field.message_type.GetOptions().map_entry


def _require(count: int, limit: int, path: str) -> None:
    if count > limit:
        raise InvalidRequest([FieldViolation(path, "values", f"must hold at most {limit:,} values")])


def count_nested(message: bytes, start: int, end: int, field: FieldDescriptor | None, limit: int) -> int:
    """The values within one of a field; if they are more than `limit`, any number above it."""
    if field is None or field.type in _TEXT:
        return 0
    if field.message_type is None:
        return end - start
    count = 0
    waiting = [(start, end, field.message_type)]
    while waiting:
        start, end, kind = waiting.pop()
        inner = _with_values(kind)
        for number, at, to in _records(message, start, end):
            count += 1
            if number in inner:
                nested = inner[number]
                if nested is None:
                    count += to - at
                else:
                    waiting.append((at, to, nested))
            if count > limit:
                return count
    return count


@cache
def _with_values(kind: Descriptor) -> Mapping[int, Descriptor | None]:
    """The fields whose bytes hold further values, by number: the type of messages, None for packed numbers."""
    return {field.number: field.message_type for field in kind.fields if field.type not in _TEXT}


def _records(message: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields in `message[start:end]`: number, and where the bytes of one with a length start and end.

    A field without a length has none. Ends where the bytes are no message.
    """
    try:
        while start < end:
            # Most numbers have one byte, for which a call takes longer than all else.
            tag, start = (message[start], start + 1) if message[start] < 0x80 else _varint(message, start)
            kind, length = tag & 7, 0
            if kind == _VARINT:
                _, start = _varint(message, start)
            elif kind == _LENGTH:
                length, start = (message[start], start + 1) if message[start] < 0x80 else _varint(message, start)
            else:
                start += _FIXED.get(kind, 0)
            if start + length > end:
                return
            yield tag >> 3, start, start + length
            start += length
    except IndexError:
        return


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that is written at `at`, and where it ends."""
    number = 0
    for shift in range(0, _VARINT_BITS, 7):
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise IndexError("a number of more than ten bytes")
