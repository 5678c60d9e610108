"""When two requests are the same: digests of what was sent and of what it comes to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from yarl import URL

from libs.common.database.records import NewGeneration
from libs.common.errors import FieldViolation, GenerationError, InvalidRequest
from libs.common.rpc.context import IDEMPOTENCY_KEY_HEADER
from libs.common.storage.addresses import check_url

_HASH_BYTES = 16
# Told apart key by key, so that whoever sends another body learns which parameter it was.
_BY_KEY = ("parameters", "labels")


def request_hash(generation: NewGeneration) -> str:
    """What identical requests share, in hexadecimal: model, prompt, parameters, pictures, number of outputs."""
    asked = {
        "model": generation.model_identifier,
        "prompt": generation.prompt,
        "parameters": generation.parameters,
        "input_images": generation.input_images,
        "number_of_outputs": generation.number_of_outputs,
    }
    if generation.preprocess:
        asked["preprocess"] = generation.preprocess
    return _digest(asked)[: 2 * _HASH_BYTES]


def key_of_call(idempotency_key: str, metadata: Mapping[str, str]) -> str:
    """Return the idempotency key of a call: that of the request, or of its metadata; empty: none.

    Raises InvalidRequest where both are given and differ.
    """
    given = metadata.get(IDEMPOTENCY_KEY_HEADER, "")
    if idempotency_key and given and given != idempotency_key:
        fault = f"must be the key of the {IDEMPOTENCY_KEY_HEADER} header, or one of the two must be left out"
        raise InvalidRequest([FieldViolation("idempotency_key", "same", fault)])
    return idempotency_key or given


def digests_of(message: Message, *, leave_out: Sequence[str] = ("idempotency_key",)) -> dict[str, str]:
    """Return a digest for each field of a request that is set, by its path; none for those of `leave_out`."""
    return {path: _digest(value)[: 2 * _HASH_BYTES] for path, value in _fields(message, leave_out)}


def callback_faults(url: str, allowed_hosts: Sequence[str]) -> list[FieldViolation]:
    """What is wrong with where a callback is to go, as far as its text tells. Names are judged when they resolve."""
    try:
        check_url(URL(url), allowed_hosts)
    except GenerationError as error:
        return [FieldViolation("callback_url", "public", error.message)]
    return []


def _fields(message: Message, leave_out: Sequence[str]) -> Iterator[tuple[str, Any]]:
    values: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    for name, value in values.items():
        if name in _BY_KEY:
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        elif name not in leave_out:
            yield name, value


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
