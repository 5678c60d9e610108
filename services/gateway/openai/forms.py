"""Forms with files, as OpenAI's clients send them, and the same fields as JSON."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField

from libs.common import bounded_json
from libs.common.errors import FieldViolation, InvalidRequest
from services.gateway.failures import BROKEN_FORM
from services.gateway.posted import posted
from services.gateway.rest.bodies import Bodies

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_BASE64_GROWTH = 4 / 3


@dataclass(slots=True)
class Form:
    """Fields by name, and the contents of files by name."""

    values: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)

    @classmethod
    async def read(cls, request: web.Request, bodies: Bodies) -> Form:
        """What was sent. InvalidRequest for what cannot be read; aiohttp's 408 and 413 for too slow and too large."""
        if request.content_type not in _FORMS:
            return cls.of_json(await bodies.read_json(request))
        form = cls()
        size_bytes = 0.0
        try:
            async with asyncio.timeout(bodies.timeout_seconds):
                given = await posted(request)
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(text="The form did not come in time.") from error
        except BROKEN_FORM as error:
            raise InvalidRequest([FieldViolation("body", "form", "cannot be read as a form")]) from error
        for name, value in given.items():
            if isinstance(value, FileField):
                content = await asyncio.to_thread(value.file.read)
                size_bytes += len(content) * _BASE64_GROWTH
                form.files.setdefault(name, []).append(content)
            elif name in form.values:
                raise InvalidRequest([FieldViolation(name[:200], "twice", "given twice")])
            else:
                form.values[name] = value if isinstance(value, str) else value.decode(errors="replace")
        if size_bytes > bodies.limit_bytes:
            raise web.HTTPRequestEntityTooLarge(max_size=bodies.limit_bytes, actual_size=int(size_bytes))
        return form

    @classmethod
    def of_json(cls, body: bytes) -> Form:
        """The fields of a JSON object. InvalidRequest for what is none."""
        try:
            values = bounded_json.loads(body or b"{}")
        except ValueError as error:
            fault = f"must be JSON or a form: {str(error)[:200]}"
            raise InvalidRequest([FieldViolation("body", "json", fault)]) from error
        if not isinstance(values, dict):
            raise InvalidRequest([FieldViolation("body", "type", "must be an object")])
        return cls(values=values)
