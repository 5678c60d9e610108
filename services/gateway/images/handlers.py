"""The RPC of GenerationService that is about images alone: parse, call, answer."""

from __future__ import annotations

from typing import Any

import grpc
from darkroom.gateway.v1 import images_pb2

from services.gateway.access import current_caller
from services.gateway.images.preprocess import Images


class ImageHandlers:
    """Serves what of `darkroom.gateway.v1.GenerationService` is about images alone."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def PreprocessImage(
        self, request: images_pb2.PreprocessImageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> images_pb2.PreprocessImageResponse:
        """See the proto."""
        return await self._images.preprocess(request, current_caller().owner)
