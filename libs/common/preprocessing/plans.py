"""What becomes of the input images of one request: what its provider needs, what the catalog says, what it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from libs.common.errors import FieldViolation
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import violations

_OF_REQUESTS = "preprocess"
Presets = Mapping[str, PreprocessConfig]


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """What the images of a request become, and what they have to be then."""

    config: PreprocessConfig
    needs: ImageNeeds


def changed(base: PreprocessConfig, wish: Mapping[str, Any], presets: Presets) -> PreprocessConfig:
    """The config that a caller's wish comes to. A preset of no known name counts as none.

    Args:
        base: what holds where nothing is wished for.
        wish: some fields of a config, and maybe `preset`, whose config they change.
        presets: configs by name.

    Raises pydantic's ValidationError where the outcome breaks a rule.
    """
    named = presets.get(wish.get("preset", ""), base)
    return named.with_changes(_fields(wish))


def plan(needs: ImageNeeds, wish: Mapping[str, Any] | None, presets: Presets) -> ImagePlan:
    """What becomes of images that are wished to be so. What goes beyond the needs' bounds is held to them.

    A wish that was made for another model and breaks this one's rules counts for nothing.
    """
    try:
        config = changed(needs.config, wish or {}, presets)
    except ValidationError:
        config = needs.config
    return ImagePlan(needs.held(config), needs)


def wish_faults(
    wish: Mapping[str, Any], base: PreprocessConfig, presets: Presets, *, path: str
) -> list[FieldViolation]:
    """What is wrong with a wish that stands at `path` of a message, whoever's images it is for."""
    if wish.get("preset", "") not in {"", *presets}:
        known = ", ".join(sorted(presets))
        return [FieldViolation(f"{path}.preset", "one_of", f"must be one of {known}")]
    try:
        changed(base, wish, presets)
    except ValidationError as error:
        return violations(error, prefix=path, known=PreprocessConfig.model_fields)
    return []


def request_faults(wish: Mapping[str, Any], needs: ImageNeeds | None, presets: Presets) -> Iterator[FieldViolation]:
    """What is wrong with a generation's wish, given what its model needs."""
    if needs is None:
        yield FieldViolation(_OF_REQUESTS, "taken", "must be left out: the model's images go as they come")
        return
    faults = wish_faults(wish, needs.config, presets, path=_OF_REQUESTS)
    yield from faults
    if not faults:
        for excess in needs.excesses(_fields(wish)):
            yield FieldViolation(f"{_OF_REQUESTS}.{excess.field}", excess.rule, excess.why)


def _fields(wish: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wish.items() if name != "preset"}
