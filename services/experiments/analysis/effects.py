"""What each factor of a factorial experiment does, and two of them together.

The variants are cells; an effect is a linear combination of their means, found by least squares, so that its variance
follows from theirs. In a part of all combinations some effects cannot be told from others: those are named (the alias
matrix of Box and Wilson 1951; Wu and Hamada, Experiments, chapter 5).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.experiments.analysis.comparing import Range, Widths
from services.experiments.analysis.corrections import holm
from services.experiments.analysis.estimates import Estimate
from services.experiments.analysis.sequential import ALPHA, always_valid_p

_NOTHING = 1e-9
Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Term:
    """A factor at a level beside its first one, or two of them together: (factor, level) once or twice."""

    parts: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """For people."""
        return " and ".join(f"{factor}={level}" for factor, level in self.parts)


@dataclass(frozen=True, slots=True)
class Effect:
    """The difference that a term makes, in the metric's own unit."""

    term: Term
    effect: Range
    adjusted_p_value: float
    aliases: list[str]


def effects_of(
    cells: Sequence[tuple[dict[str, str], Estimate]], factors: dict[str, list[str]], planned_units: float
) -> list[Effect]:
    """Main effects, and interactions of two where they can be told apart; corrected for all of them (Holm).

    Args:
        cells: the levels of each variant with its mean.
        factors: the levels of each factor, the first to compare with.
        planned_units: with how many units in all the intervals are to be tightest.
    """
    mains, pairs = _terms(factors)
    main_columns = [_centred(_indicator(cells, term)) for term in mains]
    pair_columns = [_product(cells, term) for term in pairs]
    found = list(zip(mains, _combinations(main_columns), strict=True))
    aliases = _aliases(mains, main_columns, pairs, pair_columns)
    if np.linalg.matrix_rank(_matrix(main_columns + pair_columns)) == 1 + len(mains) + len(pairs):
        together = _combinations(main_columns + pair_columns)[len(mains) :]
        found += list(zip(pairs, together, strict=True))
    units = sum(estimate.units for _, estimate in cells)
    return _judged(found, [estimate for _, estimate in cells], aliases, units, planned_units)


def _terms(factors: dict[str, list[str]]) -> tuple[list[Term], list[Term]]:
    singles = [[(factor, level) for level in levels[1:]] for factor, levels in factors.items()]
    mains = [Term((part,)) for parts in singles for part in parts]
    pairs = [Term(pair) for one, other in itertools.combinations(singles, 2) for pair in itertools.product(one, other)]
    return mains, pairs


def _indicator(cells: Sequence[tuple[dict[str, str], Estimate]], term: Term) -> Column:
    return np.array(
        [float(all(levels[factor] == level for factor, level in term.parts)) for levels, _ in cells], dtype=np.float64
    )


def _centred(column: Column) -> Column:
    return np.asarray(column - column.mean())


def _product(cells: Sequence[tuple[dict[str, str], Estimate]], term: Term) -> Column:
    one, other = (_centred(_indicator(cells, Term((part,)))) for part in term.parts)
    return one * other


def _matrix(columns: Sequence[Column]) -> NDArray[np.float64]:
    return np.column_stack([np.ones(len(columns[0])), *columns])


def _combinations(columns: Sequence[Column]) -> list[Column]:
    """For each column, the weights of the cells that its least-squares coefficient is made of."""
    return list(np.linalg.pinv(_matrix(columns))[1:])


def _aliases(
    mains: Sequence[Term], main_columns: Sequence[Column], pairs: Sequence[Term], pair_columns: Sequence[Column]
) -> dict[Term, list[str]]:
    """The interactions that each main effect takes in, because the cells cannot tell them apart."""
    if not pairs:
        return {}
    matrix = np.linalg.pinv(_matrix(main_columns))[1:] @ np.column_stack(pair_columns)
    return {
        term: [pair.name for pair, share in zip(pairs, row, strict=True) if abs(share) > _NOTHING]
        for term, row in zip(mains, matrix, strict=True)
    }


def _judged(
    found: Sequence[tuple[Term, Column]],
    estimates: Sequence[Estimate],
    aliases: dict[Term, list[str]],
    units: float,
    planned_units: float,
) -> list[Effect]:
    means = np.array([estimate.centre for estimate in estimates])
    variances = np.array([estimate.variance for estimate in estimates])
    widths = Widths.of(units, planned_units, ALPHA, units - len(estimates))
    judged: list[tuple[Term, Range, float]] = []
    for term, weights in found:
        value, deviation = float(weights @ means), math.sqrt(float(weights**2 @ variances))
        p_value = always_valid_p(value / deviation, units, planned_units) if deviation > 0 else 1.0
        judged.append((term, widths.around(value, deviation), p_value))
    corrected = holm([p_value for _, _, p_value in judged])
    return [
        Effect(term, around, p_value, aliases.get(term, []))
        for (term, around, _), p_value in zip(judged, corrected, strict=True)
    ]
