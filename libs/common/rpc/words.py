"""Words of enums as REST speaks them: PENDING, where the proto has GENERATION_STATUS_PENDING."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, EnumValueDescriptor
from google.protobuf.message import Message

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@lru_cache(maxsize=256)
def _prefix(enum: EnumDescriptor) -> str:
    return _WORD_START.sub("_", enum.name).upper() + "_"


def descriptor_of(message: Message) -> Descriptor:
    """A message's descriptor; the stubs know two kinds, of which one is what the other is made of."""
    return cast("Descriptor", message.DESCRIPTOR)


def short(value: EnumValueDescriptor) -> str:
    """The word without its enum's name before it."""
    return value.name.removeprefix(_prefix(value.type))


def number_of(enum: EnumDescriptor, given: Any) -> int | None:
    """The number of a word, short or whole, in any case; None for one that the enum does not have."""
    # protobuf fails at words that are not UTF-8, such as half a surrogate pair; those of enums are ASCII.
    if not isinstance(given, str) or not given.isascii():
        return None
    word = given.upper()
    found = enum.values_by_name.get(word) or enum.values_by_name.get(_prefix(enum) + word)
    return found.number if found is not None else None
