"""Users' opinions of what they got."""

from __future__ import annotations

import json
import math
from typing import Any

from darkroom.gateway.v1 import gateway_pb2 as messages

from libs.common.database.records_experiments import MEASURED_METRICS, NewRating
from libs.common.database.stores.ratings import RatingStore
from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.rpc.messages import timestamp
from libs.common.rpc.requests import known, raise_for, text_faults
from libs.common.rpc.structs import from_struct
from services.gateway.access import Caller
from services.gateway.cancels import no_generation

_FEEDBACK_LIMIT = 2_000
_CONTEXT_LIMIT, _KEY_LIMIT, _CONTEXT_BYTES = 50, 64, 8_192
_LARGEST = 1e12


class Ratings:
    """Keeps opinions."""

    def __init__(self, store: RatingStore) -> None:
        self._store = store

    async def rate(self, request: messages.RateGenerationRequest, caller: Caller) -> messages.RateGenerationResponse:
        """Keep one, in place of an earlier one.

        Raises InvalidRequest with every fault, and for a generation that has no results; NotFound where it is none of
        the caller's.
        """
        new = _rating_of(request)
        kept = await self._store.rate(new, owner=caller.sees)
        if kept is None:
            raise no_generation(request.id)
        state, rated_at = kept
        if rated_at is None:
            fault = f"is {state}: only what has succeeded can be rated"
            raise InvalidRequest([FieldViolation("id", "state", fault)])
        return messages.RateGenerationResponse(id=request.id, rating=new.rating, rated_at=timestamp(rated_at))


def _rating_of(request: messages.RateGenerationRequest) -> NewRating:
    context = from_struct(request.context)
    found = text_faults({"feedback": request.feedback}, {"feedback": _FEEDBACK_LIMIT})
    if not 1 <= request.rating <= 5:
        found.append(FieldViolation("rating", "range", "must be from 1 to 5"))
    found += _context_faults(context)
    raise_for(found)
    return NewRating(known(request.id), request.rating, request.feedback, context)


def _context_faults(context: dict[str, Any]) -> list[FieldViolation]:
    if len(context) > _CONTEXT_LIMIT:
        return [FieldViolation("context", "length", f"must have at most {_CONTEXT_LIMIT} keys")]
    found = []
    for key, value in context.items():
        path = f"context.{key[:_KEY_LIMIT]}"
        if not 1 <= len(key) <= _KEY_LIMIT:
            found.append(FieldViolation(path, "length", f"keys have 1 to {_KEY_LIMIT} characters"))
        if key in MEASURED_METRICS:
            found.append(FieldViolation(path, "reserved", "is measured by itself; take another key"))
        if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= _LARGEST):
            found.append(FieldViolation(path, "range", f"must be a number of at most {_LARGEST:g}"))
    if found:
        return found
    try:
        text = json.dumps(context, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return [FieldViolation("context", "json", "must be JSON, without lone surrogates or numbers beyond all bounds")]
    if len(text) > _CONTEXT_BYTES or b"\\u0000" in text:
        fault = f"must have at most {_CONTEXT_BYTES} bytes as JSON, and no NUL characters"
        return [FieldViolation("context", "size", fault)]
    return []
