"""What is read for a range, and percentiles of what is read."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from darkroom.monitor.v1 import monitor_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from libs.common.database.stores.statistics import GROWTH, HOURS_DAYS, MINUTES_DAYS, Count, percentile
from libs.common.errors import InvalidRequest
from services.monitor.statistics import asked_range, segments

NOW = datetime(2026, 11, 25, 14, 37, 12, tzinfo=UTC)
_UNITS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2026, 11, 26), timezones=st.just(UTC))  # noqa: DTZ001


@given(_TIMES, _TIMES)
def test_segments_follow_each_other_without_a_gap_and_cover_the_range(one: datetime, other: datetime) -> None:
    from_time, to_time = sorted((one, other))
    found = segments(from_time, to_time, NOW)
    if from_time.replace(second=0, microsecond=0) == to_time:
        return
    for before, after in pairwise(found):
        assert before.to_time == after.from_time
    assert found[0].from_time <= from_time
    assert found[-1].to_time >= to_time or to_time > NOW
    for segment in found:
        assert segment.from_time < segment.to_time
        assert (segment.from_time - _EPOCH) % _UNITS[segment.period] == timedelta(0)
    # Five at most, whatever the range: the number of rows that are read hardly grows with it.
    assert len(found) <= 5


@given(_TIMES, _TIMES)
def test_nothing_is_read_that_is_not_kept(one: datetime, other: datetime) -> None:
    kept = {"minute": timedelta(days=MINUTES_DAYS), "hour": timedelta(days=HOURS_DAYS), "day": timedelta(days=10_000)}
    from_time, to_time = sorted((one, other))
    for segment in segments(from_time, to_time, NOW):
        assert segment.from_time >= NOW - kept[segment.period]


@pytest.mark.parametrize(
    ("back", "periods"),
    [
        (timedelta(minutes=20), ["minute"]),
        (timedelta(hours=2), ["minute", "hour", "minute"]),
        (timedelta(days=2), ["minute", "hour", "day", "hour", "minute"]),
        (timedelta(days=30), ["hour", "day", "hour", "minute"]),
        (timedelta(days=3_000), ["day", "hour", "minute"]),
    ],
)
def test_a_longer_range_is_read_by_larger_parts(back: timedelta, periods: list[str]) -> None:
    assert [segment.period for segment in segments(NOW - back, NOW, NOW)] == periods


def _counted(seconds: float) -> Count:
    bucket = max(0, math.ceil(math.log(max(seconds, 0.001) * 1_000) / math.log(GROWTH)))
    return Count("generation_ended", "m", "p", "SUCCESS", "", bucket, 1, seconds, 0, NOW)


@given(st.lists(st.floats(0.002, 86_400), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_right_within_five_per_cent(durations: list[float], share: float) -> None:
    exact = sorted(durations)[math.ceil(share * len(durations)) - 1]
    assert percentile(map(_counted, durations), share) == pytest.approx(exact, rel=0.05)


def test_the_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 0.5) == 0


_SECONDS = (
    st.none()
    | st.sampled_from([-62_135_596_800, -1, 0, 253_402_300_799])
    | st.integers(-62_135_596_800, 253_402_300_799)
)


@given(_SECONDS, _SECONDS)
def test_a_range_at_the_ends_of_time_can_be_reckoned_with(begin: int | None, end: int | None) -> None:
    request = monitor_pb2.GetStatsRequest()
    if begin is not None:
        getattr(request, "from").CopyFrom(Timestamp(seconds=begin))
    if end is not None:
        request.to.CopyFrom(Timestamp(seconds=end))
    try:
        from_time, to_time = asked_range(request, NOW)
    except InvalidRequest as error:
        assert begin is not None
        assert [violation.field for violation in error.violations] == ["from"]
        return
    assert from_time <= to_time
    segments(from_time, to_time, NOW)
