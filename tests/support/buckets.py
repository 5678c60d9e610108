"""An object store that refuses what a test says, in the words of S3, and keeps the rest in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web

from tests.support.http import serving

Refusal = tuple[int, str, str]
ACCESS_DENIED: Refusal = (403, "AccessDenied", "Access Denied")
FULL: Refusal = (507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold.")


@dataclass(slots=True)
class RefusingBucket:
    """One bucket of any name. `refusals`: status, code and message by the method of HTTP."""

    refusals: dict[str, Refusal] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request of S3's protocol, path style."""
        body = await request.read()
        if request.method in self.refusals:
            return _refused(*self.refusals[request.method])
        if request.method == "PUT":
            self.writes.append(request.path)
            self.objects[request.path] = body
        elif request.method == "DELETE":
            self.objects.pop(request.path, None)
            return web.Response(status=HTTPStatus.NO_CONTENT)
        elif request.method == "GET":
            if request.path not in self.objects:
                return _refused(404, "NoSuchKey", "The specified key does not exist.")
            return web.Response(body=self.objects[request.path])
        return web.Response()


def _refused(status: int, code: str, message: str) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


@asynccontextmanager
async def refusing_bucket() -> AsyncIterator[RefusingBucket]:
    """The store, at its `url`, until the block ends."""
    bucket = RefusingBucket()
    async with serving([web.route("*", "/{path:.*}", bucket.answer)]) as url:
        bucket.url = url
        yield bucket
