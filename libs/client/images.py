"""Images of the typed client: `await client.images.preprocess(content, preset="fast")` hands back an image."""

from __future__ import annotations

from typing import Any

from darkroom.gateway.v1 import gateway_pb2_grpc, images_pb2

from libs.client.errors import answer_of

_PARTS = {
    "resize": images_pb2.ResizeConfig,
    "compression": images_pb2.CompressionConfig,
    "enhance": images_pb2.EnhanceConfig,
    "output": images_pb2.ImageOutputConfig,
}


def preprocess_config(**fields: Any) -> images_pb2.PreprocessConfig:
    """A config: fields of PreprocessConfig by their names in the proto, with dicts for those that have fields."""
    given = {name: _PARTS[name](**value) if isinstance(value, dict) else value for name, value in fields.items()}
    return images_pb2.PreprocessConfig(**given)


class Images:
    """The images of a client.

    Args:
        gateway: the RPCs.
        call_seconds: the deadline of each call.
    """

    def __init__(self, gateway: gateway_pb2_grpc.GenerationServiceStub, *, call_seconds: float) -> None:
        self._gateway = gateway
        self._call_seconds = call_seconds

    async def preprocess(self, source: bytes | str, **fields: Any) -> images_pb2.PreprocessImageResponse:
        """Prepare an image.

        Args:
            source: its bytes, or where it is: an http(s) or data URL.
            fields: what is to become of it, as `preprocess_config` takes them.

        Raises DarkroomError: INVALID_REQUEST for an image that is none, is too large, is broken or may not be fetched,
        and for fields that break a rule; RATE_LIMITED and SERVICE_UNAVAILABLE where too many wait already.
        """
        request = images_pb2.PreprocessImageRequest(config=preprocess_config(**fields))
        if isinstance(source, bytes):
            request.content = source
        else:
            request.url = source
        return await answer_of(self._gateway.PreprocessImage(request, timeout=self._call_seconds))
