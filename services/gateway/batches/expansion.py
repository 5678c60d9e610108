"""How much a template expands to, computed before any of it is made.

A template of some kilobytes can stand for gigabytes: each placeholder becomes a value, in each of the requests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from libs.common.errors import FieldViolation

PLACEHOLDERS_LIMIT = 100
"""Placeholders in all texts of a template."""
VALUES_LIMIT = 300_000
"""Texts and other values in all requests that a template makes."""
CHARACTERS_LIMIT = 16 * 1024**2
"""Characters of all texts of all requests that a template makes."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a template: the characters that are no placeholders, and how often each placeholder stands in it."""

    literal_characters: int
    placeholders: Counter[str]


def violations(
    texts: Sequence[Text], lengths: Mapping[str, Sequence[int]], models: int, other_values: int
) -> Iterator[FieldViolation]:
    """Yield what is too much of a template's expansion. It takes time in proportion to the template, not to that.

    Args:
        texts: the texts of the template.
        lengths: by the name of a placeholder, the characters of each of its values.
        models: how many models each combination of values is asked of; at least 1.
        other_values: values of the template that are not texts.
    """
    placeholders = sum(text.placeholders.total() for text in texts)
    if placeholders > PLACEHOLDERS_LIMIT:
        yield _too_many(f"has {placeholders} placeholders", PLACEHOLDERS_LIMIT)
    requests = math.prod(len(values) for values in lengths.values()) * models
    values = requests * (len(texts) + other_values)
    if values > VALUES_LIMIT:
        yield _too_many(f"makes {values} texts and other values", VALUES_LIMIT)
    length = sum(characters(text, lengths, requests) for text in texts)
    if length > CHARACTERS_LIMIT:
        yield _too_many(f"makes texts of {length} characters", CHARACTERS_LIMIT)


def _too_many(what: str, limit: int) -> FieldViolation:
    return FieldViolation("template", "length", f"{what}; at most {limit} are taken")


def characters(text: Text, lengths: Mapping[str, Sequence[int]], requests: int) -> int:
    """Return the characters of a text in all requests: each value of a name is in as many of them as the others."""
    found = requests * text.literal_characters
    for name, times in text.placeholders.items():
        found += times * requests // len(lengths[name]) * sum(lengths[name])
    return found


def names(texts: Iterable[Text]) -> set[str]:
    """Return the names of all placeholders."""
    return {name for text in texts for name in text.placeholders}
