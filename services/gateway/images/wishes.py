"""What callers say that is to become of their images."""

from __future__ import annotations

from typing import Any

from darkroom.gateway.v1 import images_pb2
from google.protobuf.json_format import MessageToDict


def wish_of(message: images_pb2.PreprocessConfig) -> dict[str, Any]:
    """The fields of a config that a caller has set, as `libs.common.preprocessing.plans` takes them."""
    return MessageToDict(message, preserving_proto_field_name=True)
