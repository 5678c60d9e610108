"""When two requests are the same: digests of what was sent and of what it comes to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.json_format import MessageToDict
from yarl import URL

from libs.common.database.records import NewGeneration
from libs.common.errors import FieldViolation, GenerationError
from libs.common.storage.addresses import check_url

IDEMPOTENCY_KEY_HEADER = "idempotency-key"
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


def field_digests(message: gateway_pb2.CreateGenerationRequest) -> dict[str, str]:
    """A digest for each field that was set, by its path. The idempotency key itself is none of them."""
    return {path: _digest(value)[: 2 * _HASH_BYTES] for path, value in _fields(message)}


def callback_faults(url: str, allowed_hosts: Sequence[str]) -> list[FieldViolation]:
    """What is wrong with where a callback is to go, as far as its text tells. Names are judged when they resolve."""
    try:
        check_url(URL(url), allowed_hosts)
    except GenerationError as error:
        return [FieldViolation("callback_url", "public", error.message)]
    return []


def _fields(message: gateway_pb2.CreateGenerationRequest) -> Iterator[tuple[str, Any]]:
    values: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    for name, value in values.items():
        if name in _BY_KEY:
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        elif name != "idempotency_key":
            yield name, value


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
