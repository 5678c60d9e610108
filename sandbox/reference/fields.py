"""Tables of the fields of pydantic models."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from sandbox.reference.tables import table
from sandbox.reference.values import bounds_text, default_text, without_none

_Row = tuple[str, str, str]


def settings_table(model: type[BaseSettings]) -> str:
    """A table of the environment variables of settings: name, default, meaning. Raises as `keys_table`."""
    prefix = model.model_config.get("env_prefix", "")
    rows = (
        (_variables(prefix, name, field), *_default_and_meaning(model, name, field))
        for name, field in model.model_fields.items()
    )
    return table(["variable", "default", "meaning"], rows)


def keys_table(model: type[BaseModel], *, without: Collection[str] = ()) -> str:
    """A table of the keys of a model: name, default, meaning. Keys of a model within it are `outer.inner`.

    Args:
        model: each of its fields has a description.
        without: names of fields that are no keys.

    Raises ValueError for a field without a description.
    """
    return table(["key", "default", "meaning"], _key_rows(model, "", without))


def _key_rows(model: type[BaseModel], prefix: str, without: Collection[str]) -> Iterator[_Row]:
    for name, field in model.model_fields.items():
        if name in without:
            continue
        if (inner := _inner_model(field)) is not None:
            yield from _key_rows(inner, f"{prefix}{name}.", ())
        else:
            yield (f"`{prefix}{name}`", *_default_and_meaning(model, name, field))


def _inner_model(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds, also where the field is optional; None for any other field."""
    kind = without_none(field.annotation)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _default_and_meaning(model: type[BaseModel], name: str, field: FieldInfo) -> tuple[str, str]:
    if not field.description:
        raise ValueError(f"{model.__name__}.{name} has no description: add it to the Field")
    return default_text(name, field), f"{field.description} {bounds_text(name, field)}"


def _variables(prefix: str, name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    names = alias.choices if isinstance(alias, AliasChoices) else [f"{prefix}{name.upper()}"]
    return ", ".join(f"`{variable}`" for variable in names)
