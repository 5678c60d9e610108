"""Every error code is produced somewhere, and the statuses of vendors map to codes."""

from __future__ import annotations

import re

import pytest

from libs.common.adapters.http import Reply, code_of
from libs.common.errors import ErrorCode
from sandbox.plan import ROOT

_PRODUCED = re.compile(r"ErrorCode\.([A-Z0-9_]{4,})\b")


def _producers() -> dict[str, set[str]]:
    """By code, the files in which something is made with it; the table itself does not count."""
    found: dict[str, set[str]] = {code.value: set() for code in ErrorCode}
    for folder in ("libs", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            # In errors.py the table names every code; what its classes make comes after it.
            text = (
                path.read_text() if path.name != "errors.py" else path.read_text().partition("class GenerationError")[2]
            )
            for code in _PRODUCED.findall(text):
                found[code].add(str(path.relative_to(ROOT)))
    return found


def test_every_code_has_a_producer() -> None:
    assert [code for code, files in _producers().items() if not files] == []


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (400, "", ErrorCode.INVALID_REQUEST),
        (401, "", ErrorCode.AUTHENTICATION_FAILED),
        (402, "", ErrorCode.QUOTA_EXCEEDED),
        (403, "", ErrorCode.AUTHENTICATION_FAILED),
        (403, "You do not have enough Credits", ErrorCode.QUOTA_EXCEEDED),
        (403, "User is locked. Reason: Exhausted balance.", ErrorCode.QUOTA_EXCEEDED),
        (400, "该令牌额度已用尽", ErrorCode.QUOTA_EXCEEDED),
        (404, "", ErrorCode.INVALID_REQUEST),
        (408, "", ErrorCode.PROVIDER_TIMEOUT),
        (422, "", ErrorCode.INVALID_REQUEST),
        (429, "", ErrorCode.RATE_LIMITED),
        (500, "credit", ErrorCode.PROVIDER_ERROR),
        (502, "", ErrorCode.PROVIDER_UNAVAILABLE),
        (503, "", ErrorCode.PROVIDER_UNAVAILABLE),
        (504, "", ErrorCode.PROVIDER_TIMEOUT),
        (599, "", ErrorCode.PROVIDER_ERROR),
        (302, "", ErrorCode.PROVIDER_ERROR),
    ],
)
def test_http_statuses_map_once(status: int, text: str, code: ErrorCode) -> None:
    assert code_of(Reply(status, None, text, None, None)) is code
