"""Protobuf messages of any type, and bytes that are none."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from tests.fuzz.values import TEXTS
from tests.fuzz.world import World

_DEPTH_LIMIT = 4
_INTEGERS = (0, 1, -1, 2, 10, 100, 1_001, 2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.0, 0.5, -1.0, 1e308, 1e-320, float("inf"), float("-inf"), float("nan"), 2.0**53 + 2)
_BYTES = (b"", b"\x00", b"\xff" * 100, b"\x89PNG\r\n\x1a\n", b"x" * 100_000)
_LONG = (0, 1, 1, 1, 2, 3, 101, 1_001, 20_001)
_C = FieldDescriptor
_BITS = {
    _C.CPPTYPE_INT32: (32, True),
    _C.CPPTYPE_UINT32: (32, False),
    _C.CPPTYPE_INT64: (64, True),
    _C.CPPTYPE_UINT64: (64, False),
}
# Tags that are none of ours, wire types that do not exist or do not fit, lengths beyond the end, and groups.
_RAW = (
    b"\x00", b"\xff" * 12, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", b"\x0b", b"\x0c", b"\x0f", b"\x0a\x05ab",
    b"\xfa\xff\xff\xff\x0f\x01x", b"\x08" + b"\x80" * 11,
    b"\x0d\x00", b"\x12\x03\xed\xa0\x80", b"\x0a" * 3_000, b"{}", b"\x1b" * 200,
)  # fmt: skip


class Messages:
    """Makes them.

    Args:
        world: what exists.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def fill(self, message: Message, random: Random, path: str, depth: int = 0) -> Message:
        """Set some fields of a message."""
        share = random.choice((0.15, 0.4, 0.8)) if depth == 0 else 0.3
        if isinstance(message, Struct):
            self._struct(message, random, depth)
            return message
        for field in message.DESCRIPTOR.fields:
            is_named = self._world.named(field.name, random, path) is not None
            if random.random() < (0.85 if is_named and depth == 0 else share):
                self._set(message, cast("FieldDescriptor", field), random, path, depth)
        return message

    def raw(self, content: bytes, random: Random) -> bytes:
        """The bytes of a message, damaged."""
        choice = random.randrange(6)
        position = random.randrange(len(content) + 1)
        if choice == 0:
            return content[:position]
        if choice == 1 and content:
            changed = bytearray(content)
            for _ in range(random.choice((1, 1, 5))):
                changed[random.randrange(len(changed))] = random.randrange(256)
            return bytes(changed)
        if choice == 2:
            return content * random.choice((2, 50))
        if choice == 3:
            return content[:position] + random.choice(_RAW) + content[position:]
        if choice == 4:
            return content + _nested(
                random.choice((50, 99, 101, 5_000)), random.choice((b"\x0a", b"\x1a", b"\x2a", b"\x32"))
            )
        return random.choice(_RAW)

    def _set(self, message: Message, field: FieldDescriptor, random: Random, path: str, depth: int) -> None:
        if field.is_repeated:
            self._repeat(message, field, random, path, depth)
        elif field.message_type is not None:
            if depth < _DEPTH_LIMIT:
                part = getattr(message, field.name)
                part.SetInParent()
                self.fill(part, random, path, depth + 1)
        else:
            setattr(message, field.name, self._scalar(field, random, path))

    def _repeat(self, message: Message, field: FieldDescriptor, random: Random, path: str, depth: int) -> None:
        count = random.choice(_LONG) if depth < 2 else random.choice((0, 1, 2))
        held = getattr(message, field.name)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            for number in range(min(count, 2_000)):
                key = self._scalar(entry.fields_by_name["key"], random, path)
                key = f"{key}{number}"[:5_000] if isinstance(key, str) else key
                of = entry.fields_by_name["value"]
                if of.message_type is None:
                    held[key] = self._scalar(of, random, path)
                else:
                    self.fill(held[key], random, path, depth + 1)
        elif entry is not None:
            made = (
                [self.fill(held.add(), random, path, depth + 1) for _ in range(min(count, 3))]
                if depth < _DEPTH_LIMIT
                else []
            )
            if made and count > 3:
                held.extend([made[0]] * (count if made[0].ByteSize() < 300 else 12))
        else:
            value = self._scalar(field, random, path)
            held.extend([value] * (count if not isinstance(value, str | bytes) or len(value) < 200 else min(count, 12)))

    def _scalar(self, field: FieldDescriptor, random: Random, path: str) -> Any:
        kind = field.cpp_type
        if kind == _C.CPPTYPE_STRING:
            if field.type == _C.TYPE_BYTES:
                return random.choice(_BYTES)
            known = self._world.named(field.name, random, path)
            text = known if known is not None and random.random() < 0.75 else random.choice(TEXTS)
            return text.encode(errors="replace").decode()
        if kind == _C.CPPTYPE_BOOL:
            return random.random() < 0.5
        if kind == _C.CPPTYPE_ENUM:
            assert field.enum_type is not None
            numbers = [value.number for value in field.enum_type.values]
            return random.choice((*numbers, *numbers, -1, 99, 2**31 - 1))
        if kind in {_C.CPPTYPE_DOUBLE, _C.CPPTYPE_FLOAT}:
            return random.choice(_FLOATS)
        bits, is_signed = _BITS[kind]
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
        return min(most, max(least, random.choice(_INTEGERS)))

    def _struct(self, struct: Struct, random: Random, depth: int) -> None:
        makers: tuple[Callable[[], Any], ...] = (
            lambda: random.choice(TEXTS).encode(errors="replace").decode(), lambda: random.choice(_FLOATS),
            lambda: None, lambda: True, lambda: random.choice(_INTEGERS),
        )  # fmt: skip
        for _ in range(random.choice((0, 1, 2, 5))):
            name = random.choice(("seed", "size_or_ratio", "quality", "duration", "mode", "a", "", "\x00", "k" * 3_000))
            if random.random() < 0.8:
                struct[name] = random.choice(makers)()
            else:
                struct.fields[name].CopyFrom(_deep_value(random.choice((2, 10, 33, 60))))
        if random.random() < 0.05:
            for number in range(random.choice((120, 2_000, 20_001))):
                struct.fields[f"modelIdentif{number}"].number_value = 1


def _deep_value(depth: int) -> Value:
    value = Value(bool_value=True)
    for _ in range(depth):
        value = Value(list_value=ListValue(values=[value]))
    return value


def _nested(depth: int, tag: bytes) -> bytes:
    content = b""
    for _ in range(depth):
        size, length = len(content), b""
        while size > 127:
            length += bytes([size % 128 + 128])
            size //= 128
        content = tag + length + bytes([size]) + content
    return content
