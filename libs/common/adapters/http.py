"""The HTTP client of the adapters: base URL, credentials, deadlines, size limits, each failure as a GenerationError.

What decides about a second bill is whether a request may have reached the provider: `NotAccepted` says surely not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import SimpleNamespace, TracebackType
from typing import Any, Literal, Self, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from libs.common.errors import ErrorCode, GenerationError, NotAccepted

TEXT_LIMIT = 500
RETRY_AFTER_LIMIT_SECONDS = 600.0
_PARSE_IN_THREAD_BYTES = 1024**2

ReplyModel = TypeVar("ReplyModel", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Reply:
    """A provider's reply. `body` is the JSON in it, None where it is not JSON; `text` its beginning for people."""

    status: int
    body: Any
    text: str
    request_id: str | None
    retry_after_seconds: float | None
    headers: Mapping[str, str] = field(default_factory=dict)

    def parse(self, model: type[ReplyModel]) -> ReplyModel:
        """The body as `model`. GenerationError PROVIDER_ERROR where it does not fit."""
        try:
            return model.model_validate(self.body)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            path = ".".join(str(part) for part in fault["loc"]) or "the body"
            raise GenerationError(
                ErrorCode.PROVIDER_ERROR,
                f"The provider's reply cannot be read: {path}: {fault['msg']}.",
                self.facts() | {"body": self.text},
            ) from error

    def facts(self) -> dict[str, Any]:
        """What an error about this reply tells of it."""
        facts: dict[str, Any] = {"http_status": self.status}
        if self.request_id:
            facts["provider_request_id"] = self.request_id
        return facts


Refine = Callable[[Reply], ErrorCode | None]

last_reply: ContextVar[Reply | None] = ContextVar("last_reply", default=None)
"""The reply to the call that this task made last, for whoever keeps a record of calls. None: there was none."""

_CODE_OF_STATUS: dict[int, ErrorCode] = {
    401: ErrorCode.AUTHENTICATION_FAILED,
    402: ErrorCode.QUOTA_EXCEEDED,
    403: ErrorCode.AUTHENTICATION_FAILED,
    408: ErrorCode.PROVIDER_TIMEOUT,
    429: ErrorCode.RATE_LIMITED,
    500: ErrorCode.PROVIDER_ERROR,
    502: ErrorCode.PROVIDER_UNAVAILABLE,
    503: ErrorCode.PROVIDER_UNAVAILABLE,
    504: ErrorCode.PROVIDER_TIMEOUT,
}


# How vendors say in words that the account cannot pay.
_OUT_OF_CREDIT = (
    "credit",
    "exhausted balance",
    "insufficient balance",
    "billing",
    "quota is not enough",
    "额度",
    "余额",
)


def code_of_status(status: int, text: str = "") -> ErrorCode:
    """The code of an HTTP error of which no more is known than its status and the words of its body."""
    if 400 <= status < 500 and any(words in text.lower() for words in _OUT_OF_CREDIT):
        return ErrorCode.QUOTA_EXCEEDED
    known = _CODE_OF_STATUS.get(status)
    if known is not None:
        return known
    return ErrorCode.INVALID_REQUEST if 400 <= status < 500 else ErrorCode.PROVIDER_ERROR


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of a multipart form."""

    field: str
    name: str
    content: bytes
    content_type: str


def retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date (RFC 9110, 10.2.3); None where there is none."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    # `max` also turns a NaN into 0.
    return min(RETRY_AFTER_LIMIT_SECONDS, max(0.0, seconds))


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
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        # A kept connection that the provider has just closed would lose a submit whose fate nobody knows: none is kept.
        self._submitting = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            trace_configs=[trace],
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._checking = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
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

        Raises NotAccepted where the provider provably took nothing, else GenerationError.
        """
        progress = SimpleNamespace(sent=False)
        body: dict[str, Any] = {"json": json} if form is None else {"data": _multipart(form, files)}
        try:
            return await self._call("POST", path, body=body, progress=progress)
        except NotAccepted:
            raise
        except GenerationError as error:
            if progress.sent:
                raise
            raise _not_accepted(error) from error

    async def get(self, path_or_url: str) -> Reply:
        """Ask. Safe to repeat. Raises GenerationError."""
        return await self._call("GET", path_or_url)

    async def cancel(self, method: Literal["POST", "PUT", "DELETE"], path_or_url: str) -> Reply:
        """Ask to cancel. Safe to repeat. Raises GenerationError."""
        return await self._call(method, path_or_url)

    def url(self, path: str) -> str:
        """The whole URL of a path."""
        return self._base_url + path

    def headers_for(self, url: URL) -> Mapping[str, str]:
        """The headers with the credentials for a host that may have them; none for any other."""
        return self._headers() if self._trusts(url.host or "") else {}

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
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=10)
        try:
            async with session.request(
                method, url, headers=self._headers(), timeout=timeout, allow_redirects=False,
                trace_request_ctx=progress, **(body or {}),
            ) as response:  # fmt: skip
                reply = await self._read(response)
        except TimeoutError as error:
            raise GenerationError(
                ErrorCode.PROVIDER_TIMEOUT, f"The provider did not answer within {timeout.total:g} s."
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise GenerationError(
                ErrorCode.PROVIDER_UNAVAILABLE,
                "The connection to the provider failed.",
                {"cause": f"{type(error).__name__}: {self._clean(str(error))}"},
            ) from error
        last_reply.set(reply)
        self._raise_for_error(reply)
        return reply

    def _resolve(self, path_or_url: str) -> URL:
        if path_or_url.startswith("/"):
            return URL(self._base_url + path_or_url)
        try:
            url = URL(path_or_url)
        except ValueError:
            url = URL()
        host = url.host or ""
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

    async def _read(self, response: aiohttp.ClientResponse) -> Reply:
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > self._reply_limit_bytes:
                raise GenerationError(
                    ErrorCode.PROVIDER_ERROR,
                    f"The provider's reply is larger than {self._reply_limit_bytes} bytes.",
                    {"http_status": response.status},
                )
        return Reply(
            status=response.status,
            body=await _json_of(bytes(content)),
            text=self._clean(bytes(content[:8_000]).decode(errors="replace")),
            request_id=(response.headers.get("x-request-id") or "")[:200] or None,
            retry_after_seconds=retry_after(response.headers.get("retry-after")),
            headers=response.headers,
        )

    def _raise_for_error(self, reply: Reply) -> None:
        refined = self._refine(reply)
        if refined is None and 200 <= reply.status < 300:
            return
        code = refined or code_of_status(reply.status, reply.text)
        # A refusal proves that nothing was accepted. A fault of the server's own proves nothing, nor does a 408.
        refused = reply.status < 500 and reply.status != 408
        kind = NotAccepted if refused else GenerationError
        raise kind(
            code,
            f"The provider answered {reply.status}: {reply.text or 'nothing'}",
            reply.facts(),
            retry_after_seconds=reply.retry_after_seconds,
        )

    def _clean(self, text: str) -> str:
        tokens = (value.rpartition(" ")[2] for value in self._headers().values())
        for secret in filter(None, (*self._secrets, *tokens)):
            text = text.replace(secret, "[redacted]")
        # Postgres keeps no NUL in text.
        return text.replace("\x00", "").strip()[:TEXT_LIMIT]


def _multipart(form: Mapping[str, str], files: Sequence[FormFile]) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in form.items():
        data.add_field(name, value)
    for file in files:
        data.add_field(file.field, file.content, filename=file.name, content_type=file.content_type)
    return data


def _not_accepted(error: GenerationError) -> NotAccepted:
    return NotAccepted(
        error.code, error.message, error.details, is_retryable=True, retry_after_seconds=error.retry_after_seconds
    )


async def _note_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.sent = True


async def _json_of(content: bytes) -> Any:
    def load() -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return None

    return await asyncio.to_thread(load) if len(content) > _PARSE_IN_THREAD_BYTES else load()
