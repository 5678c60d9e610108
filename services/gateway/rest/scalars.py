"""Scalars of JSON and of queries, as the protobuf JSON mapping has them.

Numbers may come as strings, words of enums as their numbers, bytes in either alphabet of base64, with or without
padding. Source: https://protobuf.dev/programming-guides/json/. Refused where the mapping allows it: NaN and infinite
numbers, and numbers that an enum does not have.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from binascii import Error
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from libs.common.rpc.words import number_of, short

FLOATS = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}
_RANGES = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}
# As JSON writes numbers, in as many digits as 64 bits and a double need.
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")
_WHOLE = re.compile(r"-?[0-9]{1,40}")
_TO_STANDARD = str.maketrans("-_", "+/")


class Unreadable(ValueError):
    """A value that a field cannot hold.

    Attributes:
        rule: the broken rule, for programs.
        description: what it demands, for people.
    """

    def __init__(self, rule: str, description: str) -> None:
        self.rule, self.description = rule, description
        super().__init__(description)


def scalar_of(field: FieldDescriptor, value: Any) -> Any:
    """The value of a field that is no message. Raises Unreadable."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return text_of(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(text_of(value))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _truth(value)
    if field.enum_type is not None:
        return _word(field.enum_type, value)
    return _float(value) if field.type in FLOATS else _integer(field, value)


def from_query(field: FieldDescriptor, text: str) -> Any:
    """A query's text as the JSON value that it stands for."""
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "false": False}.get(text, text)
    if field.enum_type is not None and _WHOLE.fullmatch(text):
        return int(text)
    return text


def text_of(value: Any) -> str:
    """A text. Raises Unreadable for what is none, or no Unicode."""
    if not isinstance(value, str):
        raise Unreadable("type", "must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unreadable("unicode", "must be valid Unicode") from error
    return value


def finite(value: float) -> float:
    """A number that is one. Raises Unreadable."""
    if not math.isfinite(value):
        raise Unreadable("range", "must be a finite number")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unreadable("type", "must be true or false")
    return value


def _bytes(text: str) -> bytes:
    bare = text.rstrip("=")
    try:
        if len(text) - len(bare) > 2:
            raise Error
        return b64decode(bare.translate(_TO_STANDARD) + "=" * (-len(bare) % 4), validate=True)
    except ValueError as error:
        raise Unreadable("base64", "must be base64") from error


def _word(enum: EnumDescriptor, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        # protobuf fails at numbers that 32 bits do not hold.
        low, high = _RANGES[FieldDescriptor.TYPE_INT32]
        number = value if low <= value <= high and value in enum.values_by_number else None
    else:
        number = number_of(enum, value)
    if number is None:
        words = ", ".join(sorted(short(value) for value in enum.values if value.number))
        raise Unreadable("one_of", f"must be one of {words}")
    return number


def _float(value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return finite(float(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable("type", "must be a number")
    try:
        return finite(float(value))
    except OverflowError:
        return finite(math.inf)


def _integer(field: FieldDescriptor, value: Any) -> int:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value) if _WHOLE.fullmatch(value) else float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unreadable("type", "must be a whole number")
    low, high = _RANGES[field.type]
    if not low <= value <= high:
        raise Unreadable("range", f"must be from {low} to {high}")
    return value
