"""A template and its matrix: what they expand to. Pure.

A placeholder is a name in braces; braces that stand for themselves are written twice. There is nothing else to it, so
that a template from outside can do nothing but be filled in.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.struct_pb2 import Struct

from libs.common.catalog import Catalog
from libs.common.errors import FieldViolation
from libs.common.rpc.requests import raise_for
from libs.common.rpc.structs import from_struct, to_struct
from services.gateway.batches.expansion import Text, names, violations

EXPANDED_LIMIT = 10_000
_AXES_LIMIT = 10
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TOKEN = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_]{0,63})\}|[{}]")
_TEXTS = ("model_identifier", "prompt", "user_id", "callback_url", "ref")
Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Template:
    """A template with its values, found good: how many requests it makes, and which."""

    message: gateway_pb2.CreateGenerationRequest
    axes: Mapping[str, Sequence[Value]]
    models: Sequence[str]

    @property
    def count(self) -> int:
        """How many requests it makes."""
        return math.prod(len(values) for values in self.axes.values()) * (len(self.models) or 1)

    def requests(self, catalog: Catalog) -> Iterator[gateway_pb2.CreateGenerationRequest]:
        """They themselves, one at a time: each combination of values, for each of the models."""
        for values in itertools.product(*self.axes.values()):
            filled = _filled(self.message, dict(zip(self.axes, values, strict=True)))
            if not self.models:
                yield filled
            for model in self.models:
                yield _of_model(filled, model, catalog)


def template_of(message: gateway_pb2.CreateGenerationRequest, matrix: Struct, models: Sequence[str]) -> Template:
    """The template that a message asks for. InvalidRequest with everything that is wrong with it."""
    found: list[FieldViolation] = []
    axes = {name: values for name, values in sorted(from_struct(matrix).items()) if _is_axis(name, values, found)}
    if len(matrix.fields) > _AXES_LIMIT:
        found.append(FieldViolation("matrix", "length", f"must have at most {_AXES_LIMIT} names"))
    if len(set(models)) < len(models):
        found.append(FieldViolation("models", "unique", "must not name a model twice"))
    if models and message.model_identifier:
        found.append(FieldViolation("template.model_identifier", "once", "must not be set beside models"))
    if not models and not axes and not found:
        found.append(FieldViolation("matrix", "required", "must be given with a template, or models must"))
    raise_for(found)
    texts = [read_text(path, text, found) for path, text in _texts(message) if text]
    used = names(texts)
    found += [
        FieldViolation(f"matrix.{name}", "used", f"there is no {{{name}}} in the template") for name in set(axes) - used
    ]
    found += [
        FieldViolation("template", "exists", f"{{{name}}} has no values in the matrix") for name in used - set(axes)
    ]
    template = Template(message, axes, list(models))
    if template.count > EXPANDED_LIMIT:
        found.append(
            FieldViolation("matrix", "length", f"makes {template.count} requests; at most {EXPANDED_LIMIT} are taken")
        )
    if not found:
        lengths = {name: [len(_word(value)) for value in values] for name, values in axes.items()}
        found += violations(texts, lengths, len(models) or 1, _other_values(from_struct(message.parameters)))
    raise_for(sorted(found, key=lambda fault: (fault.field, fault.description)))
    return template


def _is_axis(name: str, values: Any, found: list[FieldViolation]) -> bool:
    path = f"matrix.{name[:64]}"
    if not _NAME.fullmatch(name):
        found.append(FieldViolation(path, "format", "must be named with lower-case letters, digits and underscores"))
    elif not isinstance(values, list) or not values:
        found.append(FieldViolation(path, "type", "must be a list of values, and not be empty"))
    elif not all(isinstance(value, str | int | float | bool) for value in values):
        found.append(FieldViolation(path, "type", "must hold texts, numbers, true or false"))
    else:
        return True
    return False


def read_text(path: str, text: str, found: list[FieldViolation]) -> Text:
    """Read a text of the template. The first of its braces that is neither a name nor written twice is a fault."""
    placeholders: Counter[str] = Counter()
    characters = len(text)
    wrong = None
    for token in _TOKEN.finditer(text):
        if token[1]:
            placeholders[token[1]] += 1
            characters -= len(token[0])
        elif len(token[0]) == 1:
            wrong = wrong or token[0]
        else:
            characters -= 1
    if wrong:
        fault = f"has a brace that is no placeholder; write {wrong}{wrong} for {wrong}"
        found.append(FieldViolation(f"template.{path}", "placeholder", fault))
    return Text(characters, placeholders)


def _other_values(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_other_values(inner) for inner in value.values())
    if isinstance(value, list):
        return sum(_other_values(inner) for inner in value)
    return 0 if isinstance(value, str) else 1


def _texts(message: gateway_pb2.CreateGenerationRequest) -> Iterator[tuple[str, str]]:
    yield from ((name, getattr(message, name)) for name in _TEXTS)
    yield from ((f"input_images[{number}]", url) for number, url in enumerate(message.input_images))
    yield from ((f"fallback_models[{number}]", name) for number, name in enumerate(message.fallback_models))
    yield from ((f"labels.{name}", text) for name, text in message.labels.items())
    yield from _texts_within("parameters", from_struct(message.parameters))


def _texts_within(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts_within(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts_within(f"{path}[{number}]", inner)


def _filled(
    template: gateway_pb2.CreateGenerationRequest, values: Mapping[str, Value]
) -> gateway_pb2.CreateGenerationRequest:
    message = gateway_pb2.CreateGenerationRequest()
    message.CopyFrom(template)
    for name in _TEXTS:
        setattr(message, name, _text(getattr(template, name), values))
    for repeated in ("input_images", "fallback_models"):
        getattr(message, repeated)[:] = [_text(text, values) for text in getattr(template, repeated)]
    for key, text in template.labels.items():
        message.labels[key] = _text(text, values)
    if template.HasField("parameters"):
        message.parameters.CopyFrom(to_struct(_inner(from_struct(template.parameters), values)))
    return message


def _inner(value: Any, values: Mapping[str, Value]) -> Any:
    if isinstance(value, str):
        alone = _TOKEN.fullmatch(value)
        # With its type: a number stays a number.
        return values[alone[1]] if alone and alone[1] else _text(value, values)
    if isinstance(value, dict):
        return {key: _inner(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_inner(inner, values) for inner in value]
    return value


def _text(text: str, values: Mapping[str, Value]) -> str:
    return _TOKEN.sub(lambda token: _word(values[token[1]]) if token[1] else token[0][0], text)


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_model(
    filled: gateway_pb2.CreateGenerationRequest, model: str, catalog: Catalog
) -> gateway_pb2.CreateGenerationRequest:
    """The request asked of that model, with those of the parameters that it knows."""
    message = gateway_pb2.CreateGenerationRequest()
    message.CopyFrom(filled)
    message.model_identifier = model
    known = catalog.models.get(model)
    if known is not None:
        names = catalog.parameter_names(known)
        given = from_struct(filled.parameters)
        message.parameters.CopyFrom(to_struct({name: value for name, value in given.items() if name in names}))
    return message
