"""Client calls: the metadata by which the OpenAI routes mark a CreateGeneration that their client may repeat."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from time import monotonic
from weakref import WeakValueDictionary

from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.records_edge import ClientCall, Leaving

METADATA_KEY = "x-darkroom-client-call"
_UNCOUNTED = "uncounted"
_open_calls: WeakValueDictionary[str, Leaving] = WeakValueDictionary()
"""Of the calls that this process is answering over HTTP, by their tokens: the RPC of each is served here as well."""
_RETRIES_LIMIT, _WINDOW_LIMIT_SECONDS = 1_000, 3_600.0


def digest_of(key_id: str, request: gateway_pb2.CreateGenerationRequest) -> str:
    """Return the digest of a call, in hexadecimal: of the API key's id and the request."""
    return hashlib.sha256(key_id.encode() + b"\n" + request.SerializeToString(deterministic=True)).hexdigest()


def metadata_value(
    retry_count: int | None, received: float, window_seconds: float, timeout_seconds: float, leaving: Leaving
) -> str:
    """Return the value of `METADATA_KEY`. The arguments are those of `ClientCall`."""
    count = _UNCOUNTED if retry_count is None else retry_count
    token = secrets.token_hex(8)
    _open_calls[token] = leaving
    return f"{count} {received:.6f} {window_seconds:.3f} {timeout_seconds:.3f} {token}"


def client_call_of(
    metadata: Mapping[str, str], key_id: str, request: gateway_pb2.CreateGenerationRequest
) -> ClientCall | None:
    """Return the client call of a CreateGeneration; None for one with an idempotency key, or without the metadata.

    Another client may send the metadata. It joins generations of its own API key alone, so values are bounded only.
    """
    given = metadata.get(METADATA_KEY, "").split()
    if request.idempotency_key or len(given) != 5:
        return None
    try:
        retry_count = None if given[0] == _UNCOUNTED else int(given[0])
        received, window_seconds, timeout_seconds = map(float, given[1:4])
    except ValueError:
        return None
    is_bounded = 0 <= (retry_count or 0) <= _RETRIES_LIMIT and 0 < window_seconds <= _WINDOW_LIMIT_SECONDS
    if not (is_bounded and math.isfinite(received) and 0 <= timeout_seconds <= _WINDOW_LIMIT_SECONDS):
        return None
    # That of a call which is answered no more is gone.
    leaving = _open_calls.get(given[4]) or Leaving(has_left=True)
    return ClientCall(
        digest_of(key_id, request), retry_count, min(received, monotonic()), window_seconds, timeout_seconds, leaving
    )
