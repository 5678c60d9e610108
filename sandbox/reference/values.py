"""How defaults and bounds of fields are written in tables."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

_SIZES = {"GiB": 1024**3, "MiB": 1024**2, "KiB": 1024, "GB": 1_000_000_000, "MB": 1_000_000, "kB": 1_000, "bytes": 1}


def default_text(name: str, field: FieldInfo) -> str:
    """The default of a field: `required` where there is none, `none` for an empty one, never a secret.

    Args:
        name: the name of the field, whose words tell sizes (`bytes`) and ports (`port`) from other numbers.
        field: the field.
    """
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, SecretStr):
        return "secret"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return number_text(name, value)
    return f"`{value}`" if value else "none"


def number_text(name: str, value: float) -> str:
    """A number with thousands separators, a size as `64 MiB`, a port as it is. `name` as for `default_text`."""
    words = name.split("_")
    if "port" in words:
        return str(value)
    number = int(value) if value == int(value) else value
    if "bytes" in words and isinstance(number, int) and number:
        return _size_text(number)
    return f"{number:,}"


def _size_text(size_bytes: int) -> str:
    """The size in the largest unit of which it is a multiple."""
    count, unit = min((size_bytes // factor, unit) for unit, factor in _SIZES.items() if size_bytes % factor == 0)
    return f"{count:,} {unit}"


def bounds_text(name: str, field: FieldInfo) -> str:
    """The values that a field accepts, as a sentence: its choices, its upper bound, or its length.

    Empty for a field without such bounds, and for one whose description names all its choices.
    """
    choices = _choices(field.annotation)
    if not all(f"`{choice}`" in (field.description or "") for choice in choices):
        return f"One of {', '.join(f'`{choice}`' for choice in choices)}."
    low, high = _bound(field, "ge"), _bound(field, "le")
    if high is not None:
        return _range_text("", None if low is None else number_text(name, low), number_text(name, high))
    low, high = _bound(field, "min_length"), _bound(field, "max_length")
    unit = " entries" if get_origin(field.annotation) is tuple else " characters"
    return _range_text(unit, low, high)


def _range_text(unit: str, low: object, high: object) -> str:
    if low is None and high is None:
        return ""
    if low is None:
        return f"At most {high}{unit}."
    if high is None:
        return f"At least {low}{unit}."
    return f"From {low} to {high}{unit}."


def _bound(field: FieldInfo, name: str) -> Any:
    return next((getattr(item, name) for item in field.metadata if hasattr(item, name)), None)


def _choices(annotation: Any) -> tuple[Any, ...]:
    kind = without_none(annotation)
    return get_args(kind) if get_origin(kind) is Literal else ()


def without_none(annotation: Any) -> Any:
    """The annotation without None: `int` of `int | None`. An annotation of several other kinds is returned as it is."""
    if get_origin(annotation) not in {Union, UnionType}:
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if len(kinds) == 1 else annotation
