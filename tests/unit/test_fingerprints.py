"""What is one fault, and what is another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.fingerprints import cause, fingerprint, frames, template

_STACK = """Traceback (most recent call last):
  File "{root}/services/poller/polling.py", line {line}, in _poll
    status = await self._asking.check(task)
  File "{root}/.venv/lib/python3.11/site-packages/aiohttp/client.py", line 12, in _request
    raise ValueError
ValueError: x
"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no answer in 20 s", "no answer in 31.5 s"),
        ("task of gen_01m88traa5fepqvj3aqn74ngw7 failed", "task of gen_01m88trag4j94wj9y36phrsypq failed"),
        ("GET https://a.example/1 failed", "GET https://b.example/2?x=1 failed"),
        ("job 3f2b8c1e-1111-4222-8333-123456789abc is gone", "job 0a0b8c1e-9111-4222-8333-123456789abc is gone"),
        ("unknown field 'a'", "unknown field 'b'"),
        ("at 10:11:12", "at 23:59:01"),
    ],
)
def test_what_differs_from_one_time_to_the_next_does_not_count(one: str, other: str) -> None:
    assert fingerprint("poller", "TASK_FAILED", one, "") == fingerprint("poller", "TASK_FAILED", other, "")


@pytest.mark.parametrize(
    "changed", [{"source": "dispatcher"}, {"code": "TASK_TIMEOUT"}, {"message": "another thing"}, {"stack": _STACK}]
)
def test_source_code_words_and_place_do_count(changed: dict[str, str]) -> None:
    base = {"source": "poller", "code": "TASK_FAILED", "message": "a thing", "stack": ""}
    assert fingerprint(**base) != fingerprint(**(base | changed))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"details": {"http_status": 403.0}}, {"details": {"http_status": 422.0}}),
        ({"details": {"sqlstate": "57014"}}, {"details": {"sqlstate": "53100"}}),
        ({"details": {"s3_code": "AccessDenied"}}, {"details": {"s3_code": "NoSuchBucket"}}),
        ({"details": {"cause": "TimeoutError"}}, {"details": {"cause": "ClientConnectorError"}}),
        ({"exception": "KeyError"}, {"exception": "ValueError"}),
        ({}, {"details": {"http_status": 500}}),
    ],
)
def test_status_and_cause_do_count(one: dict[str, Any], other: dict[str, Any]) -> None:
    words = "task ended: The provider answered 403: nope"
    assert cause(one) != cause(other)
    assert fingerprint("bfl", "X", words, "", cause(one)) != fingerprint("bfl", "X", words, "", cause(other))


@pytest.mark.parametrize(
    "details",
    [
        {"http_status": 123456.0},
        {"http_status": "https://a.example/1"},
        {"sqlstate": "gen_01m88traa5fepqvj3aqn74ngw7"},
        {"s3_code": "a" * 100},
        {"s3_code": "http://s3/x?y"},
        {"cause": "no answer of 10.0.0.1"},
        {"cause": 7.0},
        {"provider_request_id": "req_1", "host": "a.example"},
        {"http_status": {"a": 1}},
    ],
)
def test_ids_and_texts_are_no_cause(details: dict[str, Any]) -> None:
    assert cause({"details": details}) == []
    assert cause({"details": "text", **details}) == []


def test_of_a_cause_with_its_words_the_class_counts() -> None:
    assert cause({"details": {"cause": "ClientOSError: [Errno 104] Connection reset"}}) == ["cause=ClientOSError"]


def test_a_place_is_the_same_on_every_machine_and_after_an_edit() -> None:
    here, there = _STACK.format(root="/srv/app", line=10), _STACK.format(root="/home/me/darkroom", line=99)
    assert frames(here) == frames(there) == ["services/poller/polling.py:_poll", "aiohttp/client.py:_request"]
    assert fingerprint("poller", "", "x", here) == fingerprint("poller", "", "x", there)


@given(st.text(max_size=500), st.text(max_size=500))
def test_any_text_has_one(message: str, stack: str) -> None:
    found = fingerprint("x", "", message, stack)
    assert len(found) == 32
    assert template(template(message)) == template(message)
