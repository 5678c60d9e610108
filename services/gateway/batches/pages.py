"""Pages of a batch's generations, which go by their places."""

from __future__ import annotations

import re
from collections.abc import Sequence

from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.records import GenerationRecord
from libs.common.database.states import State
from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.rpc.requests import raise_for
from services.gateway.messages import STATUS_OF_STATE

_DEFAULT, _LIMIT = 100, 1_000
_TOKEN = re.compile(r"task_([0-9]{1,6})")


def tasks_of(request: gateway_pb2.GetBatchRequest) -> tuple[int, list[State]]:
    """How many generations are asked for, and in which states; none: in any. InvalidRequest with every fault."""
    size = request.page_size if request.HasField("page_size") else _DEFAULT
    states = [state for state, status in STATUS_OF_STATE.items() if status == request.status]
    found = []
    if not 0 <= size <= _LIMIT:
        found.append(FieldViolation("page_size", "range", f"must be from 0 to {_LIMIT}"))
    if request.status and not states:
        found.append(FieldViolation("status", "one_of", "must be one of the statuses"))
    raise_for(found)
    return size, states


def index_after(request: gateway_pb2.GetBatchRequest) -> int:
    """The place after which a page begins. InvalidRequest for a token that no page gave."""
    if not request.page_token:
        return -1
    match = _TOKEN.fullmatch(request.page_token)
    if match is None:
        raise InvalidRequest([FieldViolation("page_token", "format", "must be the next_page_token of a page before")])
    return int(match[1])


def next_token(found: Sequence[GenerationRecord], size: int) -> str:
    """Where the next page begins, if one more than the page was found."""
    return f"task_{found[size - 1].batch_index}" if size and len(found) > size else ""
