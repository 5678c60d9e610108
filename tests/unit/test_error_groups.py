"""How many groups errors make."""

from __future__ import annotations

from darkroom.monitor.v1 import monitor_pb2

from services.monitor.error_log import new_errors
from services.monitor.keeping import Groups


def _entries(source: str, words: list[str]) -> list[monitor_pb2.ErrorEntry]:
    level = monitor_pb2.ERROR_LEVEL_ERROR
    return [monitor_pb2.ErrorEntry(level=level, source=source, message=message) for message in words]


def test_errors_of_one_kind_make_a_bounded_number_of_groups() -> None:
    groups = Groups(10)
    words = [f"the vendor says {chr(97 + index % 26)}{chr(97 + index // 26)}" for index in range(300)]
    first = {groups.bounded(error).fingerprint for error in new_errors(_entries("adapter:bfl", words))}
    assert len(first) == 11
    again = {groups.bounded(error).fingerprint for error in new_errors(_entries("adapter:bfl", words))}
    assert again == first
    other = {groups.bounded(error).fingerprint for error in new_errors(_entries("adapter:kling", words[:10]))}
    assert len(other) == 10
    assert not other & first
