"""What the one contract suite needs to know of each adapter. A new adapter gets a line here, and has to pass it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from libs.common.adapters.base import Adapter, InputImage, SubmitRequest
from libs.common.adapters.registry import adapters
from libs.common.database.records import MediaType


@dataclass(frozen=True, slots=True)
class Case:
    """An adapter with a model to submit to. `synchronous`: the reply to the submit holds the outputs."""

    adapter: str
    provider: str
    upstream_model: str
    media_type: MediaType = "image"
    synchronous: bool = False
    many: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def request(
        self, prompt: str, *, images: tuple[InputImage, ...] = (), outputs: int = 1, **parameters: Any
    ) -> SubmitRequest:
        """A request for this model."""
        kind: type[Adapter] = adapters()[self.adapter]
        return SubmitRequest(
            client_id="sub_01jdq2v8x4",
            upstream_model=self.upstream_model,
            prompt=prompt,
            input_images=images,
            number_of_outputs=outputs,
            parameters=kind.parameters.model_validate(parameters or self.options),
            media_type=self.media_type,
        )


CASES = {
    case.adapter: case
    for case in (
        Case("flux", "bfl", "flux-pro-1.1"),
        Case("tuzi_openai", "tuzi", "gpt-image-1", synchronous=True, many=True),
        Case("kling", "kling", "kling-v1-6", "video"),
        Case("kling_relay", "kling-relay", "kling-v1-6", "video"),
        Case("pollo", "pollo", "pollo/pollo-v1-6", "video"),
        Case("replicate", "replicate", "black-forest-labs/flux-schnell", many=True),
        Case("fal", "fal", "fal-ai/flux/dev", many=True),
        Case("openai_video", "tuzi-video", "sora-2", "video"),
    )
}
ASYNCHRONOUS = [name for name, case in CASES.items() if not case.synchronous]
