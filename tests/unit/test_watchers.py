"""The streams of a gateway that stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from libs.common.errors import ErrorCode, GenerationError
from services.gateway.watching import Change, Watchers


class _Nothing:
    async def changes(self, stamps: Mapping[str, str]) -> Sequence[Change]:
        return []


@pytest.mark.parametrize("comes_late", [False, True])
async def test_whoever_watches_a_gateway_that_stops_is_sent_on(comes_late: bool) -> None:
    hub: Watchers[Change] = Watchers(_Nothing(), interval_seconds=0.1)
    if comes_late:
        await hub.close()
    with hub.watch("gen_1") as watcher:
        if not comes_late:
            await hub.close()
        with pytest.raises(GenerationError) as caught:
            await anext(aiter(watcher.changes()))
    assert caught.value.code is ErrorCode.SERVICE_UNAVAILABLE
