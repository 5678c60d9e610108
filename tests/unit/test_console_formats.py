"""How the console writes numbers, money, durations, sizes and times, and what it draws."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.console import charts, formats
from services.gateway.console.guard import own_path
from services.gateway.console.viewer import Viewer, look_as


def _parsed(drawn: str) -> ET.Element:
    return ET.fromstring(drawn)  # noqa: S314 (what our own code has drawn)


NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    look_as(Viewer("en", ZoneInfo("Europe/Berlin"), "auto", NOW))
    yield
    look_as(Viewer("en", UTC, "auto", NOW))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "$0.00"), (0.0243, "$0.0243"), (0.025, "$0.025"), (1.5, "$1.50"), (12_345.678, "$12,345.68"), (-2, "-$2.00")],
)
def test_money(value: float, text: str) -> None:
    assert formats.money(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "12 ms"), (1.25, "1.2 s"), (75, "1 min 15 s"), (3_720, "1 h 2 min"), (200_000, "2.3 days"), (0, "0 ms")],
)
def test_durations(value: float, text: str) -> None:
    assert formats.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(12, "12 bytes"), (12_345, "12.3 kB"), (12_345_678, "12.3 MB")])
def test_sizes(value: int, text: str) -> None:
    assert formats.size(value) == text


@pytest.mark.parametrize(
    ("at", "short"),
    [
        (NOW - timedelta(minutes=5), "12:55:00"),
        (NOW - timedelta(days=2), "Nov 26, 13:00"),
        (NOW - timedelta(days=900), "Jun 11, 2024"),
    ],
)
def test_times_are_short_and_exact_beside(at: datetime, short: str) -> None:
    shown = _parsed(formats.time(at))
    assert shown.text == short
    assert datetime.fromisoformat(shown.attrib["datetime"]) == at
    assert shown.attrib["title"].endswith(("CET", "CEST"))


def test_the_same_in_chinese() -> None:
    look_as(Viewer("zh", UTC, "auto", NOW))
    assert formats.money(1.5) == "US$1.50"
    assert formats.seconds(75) == "1 分 15 秒"
    assert "11月26日 12:00" in formats.time(NOW - timedelta(days=2))


def test_what_is_not_there_is_a_dash() -> None:
    assert formats.time(None) == formats.NOTHING
    assert formats.between(None, NOW) == formats.NOTHING


_VALUES = st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=1, max_size=50)


@given(_VALUES)
def test_lines_stay_within_their_picture(values: list[float]) -> None:
    times = [NOW + timedelta(minutes=place) for place in range(len(values))]
    lower = [value - 1 for value in values]
    series = [charts.Line("<a>", values), charts.Line("b", values, lower, values)]
    drawn = _parsed(charts.lines(times, series, "what & why"))
    svg = drawn[0]
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-label"] == "what & why"
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    for path in svg.iter("path"):
        if "line" in path.attrib["class"]:
            points = [tuple(map(float, point.split())) for point in path.attrib["d"][1:].split("L")]
            assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)), min_size=1, max_size=10))
def test_ranges_stay_within_their_picture(rows: list[tuple[float, float]]) -> None:
    ranges = [charts.Range("x" * 50, value, value - wide, value + wide) for value, wide in rows]
    drawn = _parsed(charts.ranges(ranges, "label", formats.money))
    circles = [float(circle.attrib["cx"]) for circle in drawn.iter("circle")]
    assert len(circles) == len(rows)
    assert all(0 <= x <= 640 for x in circles)


@given(st.floats(-1e12, 1e12), st.floats(0, 1e12))
def test_ticks_span_what_is_shown_and_are_few(low: float, span: float) -> None:
    found = charts.ticks(low, low + span)
    assert 1 <= len(found) <= 8
    assert len(found) == 1 or (found[0] <= low + span * 1e-6 and found[-1] >= low + span * (1 - 1e-6))


def test_small_charts() -> None:
    bars = _parsed(charts.sparkline([0, 1, 4], "by the hour"))
    assert bars.findall("path")[0].attrib["d"].count("M") == 2
    assert _parsed(charts.meter(2.0, "over")).attrib["class"] == "meter full"
    parts = _parsed(charts.stacked([("good", 1), ("bad", 3)], 4, "of 4"))
    assert [rect.attrib["width"] for rect in parts.findall("rect")][1:] == ["25.00", "75.00"]
    assert charts.stacked([], 0, "none")


@given(st.text(max_size=200))
def test_a_path_of_our_own_leads_nowhere_else(text: str) -> None:
    found = own_path(text)
    assert found == "/admin" or found.startswith("/admin/")
    assert "//" not in found.partition("?")[0]
    assert found.isascii()
    assert "\\" not in found


@pytest.mark.parametrize("path", ["/admin/keys", "/admin/generations?status=FAILED&before=gen_1", "/admin/a%2Fb"])
def test_paths_of_our_own_stay(path: str) -> None:
    assert own_path(path) == path
