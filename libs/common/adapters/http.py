"""The HTTP client of the adapters: base URL, credentials, deadlines, size limits, each failure as a GenerationError.

`NotAccepted` says that the provider did not accept the request, so that a repeat causes no second bill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, replace
from io import BytesIO
from types import SimpleNamespace, TracebackType
from typing import Any, Literal, Self, TypeVar

import aiohttp
from yarl import URL

from libs.common.adapters.echoes import texts_of
from libs.common.adapters.identity import describes_other_task, names_only_other_tasks
from libs.common.adapters.reading import parsed, parsed_events, storable
from libs.common.adapters.replies import (
    Reply,
    code_of,
    code_of_status,
    of_read,
    proves_refusal,
    retry_after,
)
from libs.common.adapters.searching import every_url, task_in
from libs.common.connectors import CleanConnector
from libs.common.database.states import TaskState
from libs.common.encodings import content_of, is_data_url, is_media
from libs.common.endings import has_its_end
from libs.common.errors import ErrorCode, GenerationError, NotAccepted, NotSent
from libs.common.hosts import host_of, url_as_written
from libs.common.logging import REDACTED, redacted
from libs.common.patience import PatientDeadline
from libs.common.unpacking import READS_PAID_WORK, Unpacker

__all__ = ["FormFile", "ProviderHttp", "Reply", "code_of", "code_of_status", "last_reply", "retry_after"]

TEXT_LIMIT = 500
HEAD_LIMIT_BYTES = 64 * 1024
_PARSE_IN_THREAD_BYTES = 1024**2
_EVENT_STREAM = "text/event-stream"
T = TypeVar("T")
R = TypeVar("R")
Refine = Callable[[Reply], ErrorCode | None]

last_reply: ContextVar[Reply | None] = ContextVar("last_reply", default=None)
"""The reply to the last call of this asyncio task, for records of calls. None: there was none."""

may_leave: ContextVar[Callable[[], bool]] = ContextVar("may_leave", default=lambda: True)
"""Called when the connection for a submit is made, before its first byte is sent. False: the request is not sent."""


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of a multipart form."""

    field: str
    name: str
    content: bytes
    content_type: str


class ProviderHttp:
    """Calls to one provider account.

    Args:
        base_url: what paths are appended to.
        headers: gives the headers that carry the credentials, asked at each call; they are sent to `base_url`'s host
            and to `trusted_hosts`, to nobody else.
        secrets: cut out of whatever text of the provider is kept.
        trusted_hosts: further hosts that a reply may send us to; a leading dot stands for all below.
        submit_timeout_seconds, check_timeout_seconds: for POST and for the rest.
        reply_limit_bytes: the largest reply read.
        refine: the adapter's own reading of replies that are errors.
        is_accepted: whether the reply of an error to a submit shows that the provider accepted the request.
    """

    def __init__(
        self,
        *,
        base_url: str,
        headers: Callable[[], Mapping[str, str]],
        secrets: tuple[str, ...],
        trusted_hosts: tuple[str, ...],
        submit_timeout_seconds: float,
        check_timeout_seconds: float,
        reply_limit_bytes: int,
        refine: Refine,
        is_accepted: Callable[[Reply], bool],
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._base_host = URL(base_url).host
        self._headers = headers
        self._secrets = secrets
        self._trusted_hosts = trusted_hosts
        self._submit_timeout_seconds = submit_timeout_seconds
        self._check_timeout_seconds = check_timeout_seconds
        self._reply_limit_bytes = reply_limit_bytes
        self._refine = refine
        self._is_accepted = is_accepted
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        # No connection is reused: a submit on one that the provider has just closed would be uncertain.
        self._submitting = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            trace_configs=[trace],
            cookie_jar=aiohttp.DummyCookieJar(),
            **READS_PAID_WORK,
        )
        self._checking = aiohttp.ClientSession(
            connector=CleanConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), **READS_PAID_WORK
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._submitting.close()
        await self._checking.close()

    async def post(
        self,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
        files: Sequence[FormFile] = (),
    ) -> Reply:
        """Submit JSON, or a multipart form with its files.

        Returns a good reply; also the reply of an error that shows that the provider accepted the request.
        Raises NotSent where `may_leave` held the request back, NotAccepted where the provider provably took nothing,
        else GenerationError. Nothing else in this client raises NotAccepted: it says that a submit may be repeated,
        and nothing of a task that was submitted before.
        """
        progress = SimpleNamespace(sent=False)
        body: dict[str, Any] = {"json": json} if form is None else {"data": _multipart(form, files)}
        try:
            reply = await self._call("POST", path, body=body, progress=progress)
        except NotSent:
            raise
        except GenerationError as error:
            if progress.sent:
                raise
            raise _not_accepted(error) from error
        reply = replace(reply, echoes=tuple(texts_of(json or form)))
        fault = self._error_of(reply)
        if fault is None or await _in_thread_if_large(reply.size_bytes, self._is_accepted, reply):
            return reply
        raise _not_accepted(fault, is_retryable=fault.is_retryable) if proves_refusal(reply, fault.code) else fault

    async def get(self, path_or_url: str, *, answers: frozenset[int] = frozenset(), about: str | None = None) -> Reply:
        """Ask. Safe to repeat, whatever the error says.

        Args:
            path_or_url: below the base URL, or a whole URL.
            answers: HTTP statuses of errors that are the answer itself: such a reply is returned.
            about: the id of the task that is asked for: an error that names the ids of others alone says nothing of it,
                and a description of the task with its outputs is the answer, whatever the status.

        Raises UnreadableReply where moderation is said to have refused another task, else GenerationError: of a status
        that is an error, `details.http_status` is that status, or 404 where the body says that there is no such task.
        What the provider answers to a read is never INVALID_REQUEST: that names
        the caller.
        """
        reply = await self._call("GET", path_or_url)
        error = None if reply.status in answers else self._error_of(reply)
        if error is None or (about is not None and _names_success(reply.body, about)):
            return reply
        is_final = error.code is ErrorCode.CONTENT_REJECTED
        if is_final and about is not None and names_only_other_tasks(reply.body, about):
            raise reply.unreadable("it is about another task")
        raise of_read(reply, error)

    async def cancel(self, method: Literal["POST", "PUT", "DELETE"], path_or_url: str) -> Reply:
        """Ask to cancel. Safe to repeat. Raises GenerationError as `get` does."""
        reply = await self._call(method, path_or_url)
        error = self._error_of(reply)
        if error is None:
            return reply
        raise of_read(reply, error, is_retryable=error.is_retryable)

    def url(self, path: str) -> str:
        """The whole URL of a path."""
        return self._base_url + path

    def headers_for(self, url: URL) -> Mapping[str, str]:
        """The headers with the credentials for a host that may have them; none for any other."""
        return self._headers() if self._trusts(host_of(url)) else {}

    async def _call(
        self,
        method: str,
        path_or_url: str,
        *,
        body: dict[str, Any] | None = None,
        progress: SimpleNamespace | None = None,
    ) -> Reply:
        last_reply.set(None)
        url = self._resolve(path_or_url)
        submits = progress is not None
        session = self._submitting if submits else self._checking
        seconds = self._submit_timeout_seconds if submits else self._check_timeout_seconds
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        deadline = PatientDeadline(seconds)
        try:
            async with AsyncExitStack() as closing:
                call = session.request(
                    method, url, headers=self._headers(), timeout=timeout, allow_redirects=False,
                    trace_request_ctx=progress, **(body or {}),
                )  # fmt: skip
                async with deadline.timeout():
                    response = await closing.enter_async_context(call)
                reply = await self._read(response, deadline)
        except TimeoutError as error:
            raise GenerationError(
                ErrorCode.PROVIDER_TIMEOUT, f"The provider did not answer within {seconds:g} s."
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            # A reply came, of which aiohttp keeps nothing.
            is_no_http = isinstance(error, aiohttp.ClientResponseError)
            raise GenerationError(
                ErrorCode.PROVIDER_UNAVAILABLE,
                "The provider's reply is not valid HTTP." if is_no_http else "The connection to the provider failed.",
                {"cause": f"{type(error).__name__}: {self._clean(str(error))[:TEXT_LIMIT]}"}
                | ({"is_no_http": True} if is_no_http else {}),
            ) from error
        last_reply.set(reply)
        return reply

    def _resolve(self, path_or_url: str) -> URL:
        if path_or_url.startswith("/"):
            return URL(self._base_url + path_or_url)
        try:
            url = url_as_written(path_or_url)
        except ValueError:
            url = URL()
        host = host_of(url)
        if url.scheme not in {"http", "https"} or not self._trusts(host):
            raise GenerationError(
                ErrorCode.PROVIDER_ERROR,
                "The provider sends us to a host that the catalog does not name as its own.",
                {"host": host[:200]},
            )
        return url

    def _trusts(self, host: str) -> bool:
        return host == self._base_host or any(
            host.endswith(name) if name.startswith(".") else host == name for name in self._trusted_hosts
        )

    async def _read(self, response: aiohttp.ClientResponse, deadline: PatientDeadline) -> Reply:
        content, broken = await self._content(response, deadline)
        reply = Reply(
            status=response.status,
            body=None,
            text=self._clean(content[:8_000].decode(errors="replace"))[:TEXT_LIMIT],
            request_id=storable(response.headers.get("x-request-id") or "")[:200] or None,
            retry_after_seconds=retry_after(response.headers.get("retry-after")),
            headers=response.headers,
            size_bytes=max(len(content), response.content_length or 0),
            clean=self._clean,
        )
        is_whole = len(content) <= self._reply_limit_bytes
        if is_whole:
            read = parsed_events if _is_event_stream(response, content) else parsed
            body = await _in_thread_if_large(len(content), read, content)
            # JSON that parses is whole, whatever became of the connection.
            if body is not None:
                return replace(reply, body=body)
            if is_data_url(reply.text):
                content = content_of(content.decode(errors="replace")) or content
        has_all = is_whole and (broken is None or has_its_end(BytesIO(content), len(content)))
        if has_all and _may_hold_output(reply.status) and is_media(content):
            return replace(reply, content=content)
        reply = replace(reply, head=content[:HEAD_LIMIT_BYTES].decode(errors="replace"))
        if not 200 <= reply.status < 300:
            return reply
        if not is_whole:
            last_reply.set(reply)
            raise reply.unreadable(f"it is larger than {self._reply_limit_bytes} bytes")
        if broken is not None:
            last_reply.set(reply)
            raise reply.unreadable("it ended before it was whole") from broken
        return reply

    async def _content(
        self, response: aiohttp.ClientResponse, deadline: PatientDeadline
    ) -> tuple[bytes, Exception | None]:
        """The body, one piece more than the limit of one that is larger, and what cut it off.

        Raises what cut it off where nothing of it has come.
        """
        content, chunk = bytearray(), b""
        unpacker = Unpacker(",".join(response.headers.getall("content-encoding", ())), guesses=True)
        try:
            async with deadline.timeout():
                async for chunk in response.content.iter_any():
                    for piece in unpacker.unpack(chunk):
                        content += piece
                        if len(content) > self._reply_limit_bytes:
                            return bytes(content), None
            content += unpacker.finish()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # What does not unpack is kept as it came.
            if not (content or chunk):
                raise
            return bytes(content or chunk), error
        return bytes(content), None

    def _error_of(self, reply: Reply) -> GenerationError | None:
        """The error that a reply is. None: it is a good one."""
        refined = self._refine(reply)
        if refined is None and 200 <= reply.status < 300:
            return None
        return GenerationError(
            refined or code_of(reply),
            f"The provider answered {reply.status}: {reply.text or 'nothing'}",
            reply.facts(),
            retry_after_seconds=reply.retry_after_seconds,
        )

    def _clean(self, text: str) -> str:
        tokens = (value.rpartition(" ")[2] for value in self._headers().values())
        for secret in filter(None, (*self._secrets, *tokens)):
            text = text.replace(secret, REDACTED)
        return storable(redacted(text)).strip()


def _is_event_stream(response: aiohttp.ClientResponse, content: bytes) -> bool:
    head = content.lstrip()[:6]
    return response.content_type == _EVENT_STREAM or head.startswith((b"data: ", b"data:{", b"data:[", b"event:"))


async def _in_thread_if_large(size_bytes: int, work: Callable[[T], R], argument: T) -> R:
    """Call `work` with `argument`, in a thread where the reply has so many bytes that the event loop would wait."""
    return await asyncio.to_thread(work, argument) if size_bytes > _PARSE_IN_THREAD_BYTES else work(argument)


def _names_success(body: Any, task_id: str) -> bool:
    """Whether the body of an error describes the task as done, with a URL: the vendor's own word, in spite of HTTP."""
    found = task_in(body, {}, task_id)
    if found is None or found.state is not TaskState.SUCCESS or not every_url(found.node):
        return False
    return not describes_other_task(body, found.innermost, task_id)


def _may_hold_output(status: int) -> bool:
    """Whether a body that is a file itself may be an output: the status is good, or an error that names the client."""
    return 200 <= status < 300 or 400 <= status < 500


def _multipart(form: Mapping[str, str], files: Sequence[FormFile]) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in form.items():
        data.add_field(name, value)
    for file in files:
        data.add_field(file.field, file.content, filename=file.name, content_type=file.content_type)
    return data


def _not_accepted(error: GenerationError, *, is_retryable: bool = True) -> NotAccepted:
    return NotAccepted(
        error.code,
        error.message,
        error.details,
        is_retryable=is_retryable,
        retry_after_seconds=error.retry_after_seconds,
    )


async def _note_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    if not may_leave.get()():
        raise NotSent
    context.trace_request_ctx.sent = True
