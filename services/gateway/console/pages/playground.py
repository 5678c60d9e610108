"""The playground: one request, with its pictures, and what preprocessing makes of an image."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from darkroom.gateway.v1 import gateway_pb2, images_pb2

from libs.common.errors import GenerationError, NotFound
from libs.common.rpc.structs import to_struct
from libs.common.validation.common import json_schema
from services.gateway.console.fields import Written
from services.gateway.console.visit import Gone, Page, Visit

_IMAGES_SHOWN_BYTES = 4_000_000
_LABEL = {"console": "playground"}


@dataclass(frozen=True, slots=True)
class Preview:
    """An image before and after. Pictures are data URLs; empty where one is too large to be shown."""

    answer: images_pb2.PreprocessImageResponse
    before: str
    after: str

    @property
    def saved_share(self) -> float:
        """How much smaller it became, as a share of what it was; negative where it grew."""
        return 1 - self.answer.size_bytes / self.answer.source.size_bytes


async def show(visit: Visit) -> Page:
    """The forms."""
    return _page(visit, Written({"model": visit.asked("model")}))


async def send(visit: Visit) -> Page | Gone:
    """Hand in one request. Pressed twice on one page, it is one."""
    fields = visit.fields
    try:
        request = gateway_pb2.CreateGenerationRequest(
            model_identifier=fields.text("model"),
            prompt=fields.text("prompt"),
            input_images=fields.text("input_images").split(),
            number_of_outputs=fields.whole("number_of_outputs"),
            parameters=to_struct(fields.json_object("parameters")),
            idempotency_key=visit.idempotency_key("playground"),
            labels=_LABEL,
        )
        fields.check()
        answer = await visit.own(visit.parts.generation.CreateGeneration, request)
    except GenerationError as error:
        if not error.violations and not isinstance(error, NotFound):
            raise
        return _page(visit, fields.written(), error)
    return Gone(f"/admin/generations/{answer.id}")


async def preview(visit: Visit) -> Page:
    """Show what preprocessing makes of an image: a file, or one that lies somewhere public."""
    fields = visit.fields
    content, url = fields.content("image"), fields.text("image_url")
    request = images_pb2.PreprocessImageRequest()
    if content:
        request.content = content
    elif url:
        request.url = url
    request.config.preset = fields.text("preset")
    request.config.output.kind = "buffer"
    try:
        answer = await visit.own(visit.parts.generation.PreprocessImage, request)
    except GenerationError as error:
        if not error.violations:
            raise
        return _page(visit, fields.written(), preview_error=error)
    before = _data_url(content, f"image/{answer.source.format}") if content else ""
    made = Preview(answer, before, _data_url(answer.content, answer.content_type))
    return _page(visit, fields.written(), preview=made)


def _page(visit: Visit, written: Written, error: GenerationError | None = None, **more: Any) -> Page:
    catalog = visit.parts.catalog.current
    models = sorted(catalog.models.values(), key=lambda model: (model.media_type, model.identifier))
    chosen = catalog.models.get(written["model"])
    values = {
        "written": written,
        "models": models,
        "chosen": chosen,
        "schema": json_schema(catalog.adapter_of(chosen).parameters, chosen.defaults) if chosen else None,
        "presets": sorted(catalog.presets),
        "once": visit.once,
        "error": error,
        "preview": None,
        "preview_error": None,
        **more,
    }
    is_wrong = error is not None or values["preview_error"] is not None
    return Page("playground.html", values, 400 if is_wrong else 200)


def _data_url(content: bytes, content_type: str) -> str:
    if len(content) > _IMAGES_SHOWN_BYTES or content_type == "image/heic":
        return ""
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"
