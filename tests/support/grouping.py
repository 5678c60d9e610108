"""Which tests one worker runs, and in which order workers take them."""

from __future__ import annotations

import pytest

# An idle stack costs a tenth of a core: one worker runs all tests of those that many tests share.
_LASTING = {"lasting_stack", "_lasting_hooked_stack"}


def placed(item: pytest.Item) -> tuple[int, str]:
    """Return how early a test is taken, from 0, and the group that one worker runs whole; "" for none.

    What takes long comes first, so that the short ones at the end leave no worker without work.
    """
    fixtures = set(getattr(item, "fixturenames", ()))
    file = item.path.stem
    if fixtures & _LASTING:
        return 0, "lasting"
    if "stage" in fixtures:
        return 1, "browser"
    if "module_stack" in fixtures:
        return 1, file
    if "start_stack" in fixtures:
        return 2, ""
    return (3, file) if "shared" in fixtures else (4, file)
