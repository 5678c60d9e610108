"""OpenAI-compatible image endpoints (api.openai.com and relays such as api.tu-zi.com): synchronous.

Source: the Images section of OpenAI's API reference; what relays do beyond it was seen of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from libs.common.adapters.base import Adapter, Completed, ProviderOutput, SubmitRequest
from libs.common.adapters.http import FormFile, Reply
from libs.common.adapters.media import Outputs, names_output, outputs_in
from libs.common.adapters.openai_errors import code_of
from libs.common.adapters.registry import adapter
from libs.common.encodings import is_media
from libs.common.errors import ErrorCode
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.validation.common import Parameters
from libs.common.validation.image import SizeOrRatio, explicit_size

# Source: POST /v1/images/edits: png, webp or jpg files.
_IMAGES = ImageNeeds(
    PreprocessConfig.fitting(2_048, quality=95, kind="buffer"),
    formats=("png", "jpeg", "webp"),
    longest_side=4_096,
    max_size_kb=20_000,
)


class TuziOpenAIParameters(Parameters):
    """Source: POST /v1/images/generations. What a model does not know, the endpoint refuses itself."""

    size_or_ratio: SizeOrRatio = "1024x1024"
    quality: Literal["standard", "hd", "low", "medium", "high", "auto"] | None = None
    style: Literal["vivid", "natural"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    response_format: Literal["url", "b64_json"] | None = Field(
        default=None, description="How the endpoint hands over the images; gpt-image models only know b64_json."
    )


@adapter("tuzi_openai")
class TuziOpenAI(Adapter):
    """Images in the reply itself, as URLs that live an hour or as base64. Nothing deduplicates a repeated submit."""

    parameters = TuziOpenAIParameters
    preprocess = _IMAGES
    reply_limit_bytes = 256 * 1024**2
    needs_image_bytes = True

    @staticmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """Source: OpenAI's API reference, authentication."""
        return {"authorization": f"Bearer {credentials['api_key']}"}

    @staticmethod
    def refine(reply: Reply) -> ErrorCode | None:
        """The vendor's own codes. A reply with images is none, whatever stands beside them: they are paid for."""
        listed = reply.body.get("data") if isinstance(reply.body, dict) and reply.status < 300 else None
        return None if isinstance(listed, list) and listed else code_of(reply)

    @classmethod
    def is_accepted(cls, reply: Reply) -> bool:
        """Whether the reply of an error names a task or an image, which may be paid for."""
        head, any_url = reply.head or reply.text, reply.status < 300
        return bool(reply.content) or names_output(reply.body, head, any_url=any_url) or super().is_accepted(reply)

    async def submit(self, request: SubmitRequest) -> Completed:
        """POST /v1/images/generations, or /v1/images/edits as a form where pictures go along."""
        payload = _payload(request)
        if request.input_images:
            fields = {name: str(value) for name, value in payload.items()}
            reply = await self.http.post("/v1/images/edits", form=fields, files=_files(request))
        else:
            reply = await self.http.post("/v1/images/generations", json=payload)
        if reply.content:
            # Some relays answer with the file itself.
            outputs = Outputs((ProviderOutput(content=reply.content),), 0)
        else:
            outputs = await asyncio.to_thread(outputs_in, reply.body, self.http.url(""))
        if reply.status >= 300 or self.refine(reply) is not None:
            return _made_all_the_same(reply, outputs, request)
        if not outputs.read:
            raise reply.unreadable("it has no image")
        return Completed(outputs.read, unread=outputs.unread)


def _made_all_the_same(reply: Reply, outputs: Outputs, request: SubmitRequest) -> Completed:
    """The images in the reply of an error, but for those that the request sent.

    Raises UnreadableReply for one that has none: what its URLs lead to may be an image, or a page about the error.
    """
    sent = {image.content for image in request.input_images}
    made = [one for one in outputs.read if one.content is not None and one.content not in sent]
    made = [one for one in made if is_media(one.content or b"")]
    if not made:
        raise reply.unreadable("it is an error that names an output")
    return Completed(tuple(made), unread=outputs.unread)


def _payload(request: SubmitRequest) -> dict[str, Any]:
    assert isinstance(request.parameters, TuziOpenAIParameters)
    payload = request.parameters.model_dump(exclude={"size_or_ratio"}, exclude_none=True)
    payload |= {
        "model": request.upstream_model,
        "prompt": request.prompt,
        "n": request.number_of_outputs,
        "size": _size(request.upstream_model, request.parameters.size_or_ratio),
    }
    return payload | ({"user": request.user_id} if request.user_id else {})


def _files(request: SubmitRequest) -> list[FormFile]:
    return [
        FormFile("image[]", f"{index}.{image.content_type.partition('/')[2]}", image.content, image.content_type)
        for index, image in enumerate(request.input_images)
    ]


def _size(model: str, size_or_ratio: str) -> str:
    """A size as it is; for a ratio the model's square, landscape or portrait size."""
    if explicit_size(size_or_ratio):
        return size_or_ratio
    across, down = (int(part) for part in size_or_ratio.split(":"))
    long_side = 1_792 if model.startswith("dall-e") else 1_536
    if across == down:
        return "1024x1024"
    return f"{long_side}x1024" if across > down else f"1024x{long_side}"
