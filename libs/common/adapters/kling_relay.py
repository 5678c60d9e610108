"""Kling through a relay: the vendor's paths behind a bearer key. Source: what relays such as api.tu-zi.com/kling do."""

from __future__ import annotations

from collections.abc import Mapping

from libs.common.adapters.kling import Kling
from libs.common.adapters.registry import adapter


@adapter("kling_relay")
class KlingRelay(Kling):
    """Replies are read as tolerantly as the vendor's own. A relay is not trusted to keep our id.

    Some relays answer a check with the vendor's reply as it is: it names the vendor's id, and not the relay's.
    """

    credentials = ("api_key",)
    can_find_task = can_list = repeats_task_id = False

    @staticmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """The relay's key."""
        return {"authorization": f"Bearer {credentials['api_key']}"}
