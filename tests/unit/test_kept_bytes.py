"""How much an owner may put into object storage by preparing images."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from libs.common.errors import ErrorCode, GenerationError
from services.gateway.images.kept_bytes import KeptBytes


def test_an_owner_has_a_share_of_each_day() -> None:
    now = datetime(2026, 1, 1, 23, 59, tzinfo=UTC)
    kept = KeptBytes(100, lambda: now)
    kept.take("acme", 60)
    kept.take("other", 100)
    with pytest.raises(GenerationError) as caught:
        kept.take("acme", 41)
    assert (caught.value.code, caught.value.retry_after_seconds) == (ErrorCode.RATE_LIMITED, 60)
    kept.take("acme", 40)
    now = datetime(2026, 1, 2, 0, 0, tzinfo=UTC)
    kept.take("acme", 100)
