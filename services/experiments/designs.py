"""Variants made of factors: all combinations of their levels, or a balanced part of them."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from darkroom.experiments.v1 import experiments_pb2 as messages
from pydoe import gsd

from libs.common.database.records_experiments import VariantRecord
from libs.common.errors import FieldViolation
from libs.common.ids import new_id
from libs.common.rpc.structs import from_value

FACTORS_LIMIT, LEVELS_LIMIT, VARIANTS_LIMIT = 6, 10, 20
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VARIES = re.compile(r"model|prompt|parameters\.[A-Za-z0-9_]{1,64}")
_LEVEL_LIMIT = 40


@dataclass(frozen=True, slots=True)
class Factor:
    """One thing that is varied. `varies`: model, prompt, or parameters. and a name."""

    name: str
    varies: str
    levels: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """What its levels are called."""
        texts = [level if isinstance(level, str) else json.dumps(level) for level in self.levels]
        return [text if len(text) <= _LEVEL_LIMIT else f"{text[:_LEVEL_LIMIT]}…" for text in texts]


def factors_of(message: messages.Factorial, found: list[FieldViolation]) -> list[Factor]:
    """The factors of a message; what is wrong with them is added to `found`."""
    factors = [
        Factor(given.name, given.varies, tuple(from_value(level) for level in given.levels))
        for given in message.factors[:FACTORS_LIMIT]
    ]
    if not 1 <= len(message.factors) <= FACTORS_LIMIT:
        found.append(FieldViolation("factorial.factors", "length", f"must be 1 to {FACTORS_LIMIT}"))
    for index, factor in enumerate(factors):
        found += _faults(f"factorial.factors[{index}]", factor)
    for name in ("name", "varies"):
        values = [getattr(factor, name) for factor in factors]
        if len(set(values)) < len(values):
            found.append(FieldViolation("factorial.factors", "unique", f"no two may have the same {name}"))
    return factors


def _faults(path: str, factor: Factor) -> list[FieldViolation]:
    found = []
    if not _NAME.fullmatch(factor.name):
        found.append(FieldViolation(f"{path}.name", "format", "must be 1 to 64 letters, digits, _ and -"))
    if not _VARIES.fullmatch(factor.varies):
        fault = "must be model, prompt, or parameters. and the name of a parameter"
        found.append(FieldViolation(f"{path}.varies", "one_of", fault))
    if not 2 <= len(factor.levels) <= LEVELS_LIMIT:
        found.append(FieldViolation(f"{path}.levels", "length", f"must be 2 to {LEVELS_LIMIT}"))
    elif len(set(factor.labels)) < len(factor.levels):
        fault = f"must differ, within their first {_LEVEL_LIMIT} characters"
        found.append(FieldViolation(f"{path}.levels", "unique", fault))
    if not factor.varies.startswith("parameters.") and not all(isinstance(level, str) for level in factor.levels):
        found.append(FieldViolation(f"{path}.levels", "type", "must be strings"))
    return found


def combinations_of(factors: list[Factor], reduction: int, found: list[FieldViolation]) -> list[tuple[int, ...]]:
    """Which levels go together, the control first.

    A part is a generalised subset design (Surowiec and others, Analytical Chemistry 89, 2017), which is balanced.
    """
    sizes = [len(factor.levels) for factor in factors]
    if reduction in {0, 1}:
        rows = list(itertools.product(*(range(size) for size in sizes)))
    elif not 2 <= reduction <= max(sizes, default=0) or len(sizes) < 2:
        fault = "must be 1, or from 2 to the most levels of a factor, with 2 factors at least"
        found.append(FieldViolation("factorial.reduction", "range", fault))
        return []
    else:
        rows = sorted(tuple(int(level) for level in row) for row in gsd(sizes, reduction))
    if not 2 <= len(rows) <= VARIANTS_LIMIT:
        fault = f"makes {len(rows)} variants; must make 2 to {VARIANTS_LIMIT}"
        found.append(FieldViolation("factorial", "variants", fault))
    return rows


def variants_of(factors: list[Factor], rows: list[tuple[int, ...]], base: VariantRecord) -> list[VariantRecord]:
    """A variant for each combination: `base` with its levels."""
    return [_variant(factors, row, base) for row in rows]


def _variant(factors: list[Factor], row: tuple[int, ...], base: VariantRecord) -> VariantRecord:
    made = replace(base, id=new_id("var"), levels={})
    labels = {factor.name: factor.labels[level] for factor, level in zip(factors, row, strict=True)}
    for factor, level in zip(factors, row, strict=True):
        value = factor.levels[level]
        if factor.varies == "model":
            made = replace(made, model_identifier=value)
        elif factor.varies == "prompt":
            made = replace(made, prompt=value)
        else:
            made = replace(made, parameters={**made.parameters, factor.varies.removeprefix("parameters."): value})
    return replace(made, name=", ".join(f"{name}={label}" for name, label in labels.items()), levels=labels)
