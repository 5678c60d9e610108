"""Charts as SVG, drawn here: no script, no colour alone, and a text for whoever does not see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from services.gateway.console import formats

_WIDTH, _HEIGHT = 640, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 10, 22
_SPARK_WIDTH, _SPARK_HEIGHT = 120, 24
_ROW, _NAME_WIDTH = 30, 170
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4")
_NONE = Markup("")
Write = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """A series: a name, and values at times. `low` and `high`: bounds around them."""

    name: str
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Range:
    """A value with its interval, on a row of its own."""

    name: str
    value: float
    low: float
    high: float


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span from `low` to `high`."""
    span = high - low
    # What is smaller than numbers of that size can tell apart has no ticks between.
    if not math.isfinite(span) or span <= max(abs(low), abs(high), 1e-300) * 1e-12:
        return [low]
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def sparkline(values: Sequence[float], label: str) -> Markup:
    """A few values as small bars."""
    top = max(values, default=0) or 1
    width = _SPARK_WIDTH / max(1, len(values))
    wide = max(1.0, width - 1)
    # One path for all of them: there are many such pictures on a page.
    bars = "".join(
        f"M{place * width:.4g} {_SPARK_HEIGHT}v-{_bar_height(value / top):.3g}h{wide:.3g}V{_SPARK_HEIGHT}"
        for place, value in enumerate(values)
        if value
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">'
        '<path class="bars" d="{3}"/><path class="axis" d="M0 {4}H{0}"/></svg>'
    ).format(_SPARK_WIDTH, _SPARK_HEIGHT, label, bars, _SPARK_HEIGHT - 0.5)


def _bar_height(share: float) -> float:
    """What is there at all can be seen."""
    return max(1.5, share * _SPARK_HEIGHT)


def lines(times: Sequence[datetime], series: Sequence[Line], label: str, write: Write = formats.compact) -> Markup:
    """Series over time, told apart by dashes as by colours, with a legend."""
    values = [value for line in series for part in (line.values, line.low, line.high) for value in part]
    marks = ticks(min(0.0, *values), max(0.0, *values)) if values else [0.0, 1.0]
    if len(marks) < 2:
        marks = [marks[0], marks[0] + 1]
    plot = _Plot(times, marks)
    drawn = _NONE.join(_series(plot, line, place) for place, line in enumerate(series))
    return _figure(
        Markup("{}{}{}").format(_grid(plot, write), _time_marks(plot), drawn), label, _HEIGHT, _legend(series)
    )


def ranges(rows: Sequence[Range], label: str, write: Write, zero: float | None = 0.0) -> Markup:
    """Values with their intervals below each other; a line where there is no difference."""
    ends = [end for row in rows for end in (row.low, row.high, row.value) if math.isfinite(end)]
    ends += [zero] if zero is not None else []
    marks = ticks(min(ends, default=0.0), max(ends, default=1.0))
    if len(marks) < 2:
        marks = [marks[0], marks[0] + 1]
    left, right = _NAME_WIDTH, _WIDTH - 30

    def x(value: float) -> float:
        share = (value - marks[0]) / (marks[-1] - marks[0])
        return left + min(1.0, max(0.0, share)) * (right - left)

    bottom = len(rows) * _ROW + 8
    grid = _NONE.join(
        Markup(
            '<path class="grid" d="M{0:.1f} 4V{1}"/><text x="{0:.1f}" y="{2}" text-anchor="middle">{3}</text>'
        ).format(x(mark), bottom, bottom + 14, write(mark))
        for mark in marks
    )
    if zero is not None:
        grid += Markup('<path class="zero" d="M{:.1f} 4V{}"/>').format(x(zero), bottom)
    drawn = _NONE.join(
        Markup(
            '<g class="s{0}"><text x="{1}" y="{2}" text-anchor="end">{3}</text>'
            '<path class="bar" d="M{4:.1f} {5}H{6:.1f}"/><circle cx="{7:.1f}" cy="{5}" r="5"/></g>'
        ).format(
            place % 5,
            left - 12,
            place * _ROW + 24,
            _clipped(row.name),
            x(row.low),
            place * _ROW + 20,
            x(row.high),
            x(row.value),
        )
        for place, row in enumerate(rows)
    )
    return _figure(grid + drawn, label, bottom + 22)


def meter(share: float, label: str) -> Markup:
    """How much of something is used, 0 to 1."""
    used = min(1.0, max(0.0, share))
    word = "full" if used >= 0.9 else "high" if used >= 0.7 else "low"
    return Markup(
        '<svg class="meter {}" viewBox="0 0 100 8" width="100" height="8" role="img" aria-label="{}" '
        'preserveAspectRatio="none"><rect class="track" width="100" height="8" rx="2"/>'
        '<rect class="used" width="{:.1f}" height="8" rx="2"/></svg>'
    ).format(word, label, used * 100)


def stacked(parts: Sequence[tuple[str, float]], whole: float, label: str) -> Markup:
    """Parts of a whole beside each other, each with the class of what it is."""
    drawn, at = _NONE, 0.0
    for name, value in parts:
        width = value / whole * 100 if whole else 0.0
        drawn += Markup('<rect class="{}" x="{:.2f}" width="{:.2f}" height="10"/>').format(name, at, width)
        at += width
    return Markup(
        '<svg class="stacked" viewBox="0 0 100 10" role="img" aria-label="{}" preserveAspectRatio="none">'
        '<rect class="track" width="100" height="10"/>{}</svg>'
    ).format(label, drawn)


class _Plot:
    """Where times and values lie."""

    def __init__(self, times: Sequence[datetime], marks: Sequence[float]) -> None:
        self.times = times
        self.marks = marks

    def x(self, place: int) -> float:
        """Of the time of that place, by its distance from the first."""
        width = _WIDTH - _LEFT - _RIGHT
        first, last = self.times[0], self.times[-1]
        whole = (last - first).total_seconds()
        share = (self.times[place] - first).total_seconds() / whole if whole else 0.5
        return _LEFT + share * width

    def y(self, value: float) -> float:
        """Of a value."""
        low, high = self.marks[0], self.marks[-1]
        height = _HEIGHT - _TOP - _BOTTOM
        return _TOP + (1 - (min(high, max(low, value)) - low) / (high - low)) * height

    def path(self, values: Sequence[float]) -> str:
        """Through all values."""
        points = [f"{self.x(place):.1f} {self.y(value):.1f}" for place, value in enumerate(values)]
        return f"M{'L'.join(points)}" if points else ""


def _series(plot: _Plot, line: Line, place: int) -> Markup:
    band = _NONE
    if line.low and line.high:
        there, back = plot.path(line.high), plot.path(line.low)[1:].split("L")
        band = Markup('<path class="band s{}" d="{}L{}Z"/>').format(place % 5, there, "L".join(reversed(back)))
    dots = _NONE
    if len(line.values) == 1:
        dots = Markup('<circle class="s{}" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(
            place % 5, plot.x(0), plot.y(line.values[0])
        )
    return Markup('{}<path class="line s{}" stroke-dasharray="{}" d="{}"/>{}').format(
        band, place % 5, _DASHES[place % 5], plot.path(line.values), dots
    )


def _grid(plot: _Plot, write: Write) -> Markup:
    return _NONE.join(
        Markup('<path class="grid" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            _LEFT, plot.y(mark), _WIDTH - _RIGHT, _LEFT - 6, plot.y(mark) + 4, write(mark)
        )
        for mark in plot.marks
    )


def _time_marks(plot: _Plot) -> Markup:
    if not plot.times:
        return _NONE
    places = sorted({0, len(plot.times) // 2, len(plot.times) - 1})
    is_long = (plot.times[-1] - plot.times[0]).total_seconds() > 86_400
    found = _NONE
    for place in places:
        at = formats.instant(plot.times[place])
        word = f"{at:%m-%d}" if is_long and at else formats.clock(at)
        anchor = "start" if place == 0 and len(places) > 1 else "end" if place == len(plot.times) - 1 else "middle"
        found += Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
            plot.x(place), _HEIGHT - 6, anchor, word
        )
    return found


def _legend(series: Sequence[Line]) -> Markup:
    if len(series) < 2:
        return _NONE
    items = _NONE.join(
        Markup(
            '<li><svg class="key" viewBox="0 0 28 8" width="28" height="8" aria-hidden="true">'
            '<path class="line s{}" stroke-dasharray="{}" d="M0 4H28"/></svg>{}</li>'
        ).format(place % 5, _DASHES[place % 5], line.name)
        for place, line in enumerate(series)
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def _figure(content: Markup, label: str, height: int, legend: Markup = _NONE) -> Markup:
    return Markup(
        '<figure class="chart"><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>{}</figure>'
    ).format(_WIDTH, height, label, content, legend)


def _clipped(name: str) -> str:
    limit = 22
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
