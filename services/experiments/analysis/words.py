"""Numbers in plain words: as a person would say them who has to decide."""

from __future__ import annotations

from services.experiments.analysis.estimates import RATES

_LABELS = {
    "success_rate": "success rate",
    "avg_duration": "duration",
    "avg_cost": "cost",
    "user_rating": "user rating",
    "p95_duration": "95th percentile of durations",
}
_UNITS = {
    "success_rate": "percent",
    "avg_duration": "seconds",
    "p95_duration": "seconds",
    "avg_cost": "US dollars",
    "user_rating": "1 to 5",
}
_LEAST_P = 0.0001


def label(metric: str) -> str:
    """What the metric is called in a sentence."""
    return _LABELS.get(metric, metric.replace("_", " "))


def titled(metric: str) -> str:
    """What the metric is called beside a picture, with its unit."""
    unit = _UNITS.get(metric)
    return f"{label(metric)}, {unit}" if unit else label(metric)


def amount(metric: str, value: float) -> str:
    """A value with its unit."""
    if metric in RATES:
        return f"{value * 100:.1f} %"
    if metric == "avg_cost":
        return f"${significant(value)}"
    if metric in {"avg_duration", "p95_duration"}:
        return f"{significant(value)} s"
    return significant(value)


def distance(metric: str, value: float) -> str:
    """The size of a difference with its unit."""
    return f"{abs(value) * 100:.1f} points" if metric in RATES else amount(metric, abs(value))


def change(metric: str, value: float, base: float) -> str:
    """By how much `value` is higher or lower than `base`: '44 % lower cost', '0.7 points lower success rate'."""
    direction = "higher" if value > base else "lower"
    size = abs(value - base)
    if metric in RATES:
        return f"{size * 100:.1f} points {direction} {label(metric)}"
    if base > 0:
        return f"{significant(size / base * 100, 2)} % {direction} {label(metric)}"
    return f"{significant(size)} {direction} {label(metric)}"


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent where a person would write none."""
    # Of 37.5 and what sums make of it, both are 38.
    text = f"{float(f'{value:.12g}'):.{digits}g}"
    return f"{float(text):,.0f}" if "e+" in text else text


def surprise(p_value: float) -> str:
    """A p-value."""
    return f"p < {_LEAST_P}" if p_value < _LEAST_P else f"p = {significant(p_value, 2)}"


def listed(words: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
