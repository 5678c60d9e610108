"""Webhooks of providers: believed if they are signed and fresh, handed to the poller, answered once they are noted.

A webhook that is lost, or that comes twice, changes nothing: polling goes on, and a task ends once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from time import monotonic

import grpc
import structlog
from aiohttp import web
from darkroom.poller.v1 import poller_pb2
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub
from google.protobuf.json_format import ParseDict, ParseError

from libs.common import metrics
from libs.common.adapters.base import Adapter, WebhookReport
from libs.common.adapters.registry import adapters
from libs.common.catalog import CatalogHolder, Provider
from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.context import begin_request
from libs.common.rpc.errors import from_rpc_error
from services.gateway.failures import BROKEN_BODY
from services.gateway.holding import hold_bytes
from services.gateway.rest.problems import http_problem, plain_problem
from services.gateway.webhook_keys import WebhookKeys

log = structlog.get_logger()
BODY_LIMIT_BYTES = 1024**2
_READ_TIMEOUT_SECONDS = 10.0
_REPORT_TIMEOUT_SECONDS = 10.0
_LOG_SECONDS = 60.0
# A quick provider reports before the reply to its submit has become a row: an unknown task is looked for again.
_EARLY_WAITS_SECONDS = (0.2, 0.5, 1.0)
_STATUS_OF_CODE = {
    ErrorCode.AUTHENTICATION_FAILED: 401,
    ErrorCode.PROVIDER_ERROR: 400,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.UNIMPLEMENTED: 404,
    ErrorCode.RATE_LIMITED: 429,
}


class Webhooks:
    """POST /api/webhooks/{provider}.

    Args:
        catalog: which accounts there are, and what their vendors sign with.
        keys: those that vendors publish.
        poller: takes reports.
        now: Unix seconds.
    """

    def __init__(
        self,
        catalog: CatalogHolder,
        keys: WebhookKeys,
        poller: PollingServiceStub,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._keys = keys
        self._poller = poller
        self._now = now
        # By provider and HTTP status: the refusals since the last log entry, and the time of that entry.
        self._refusals: Counter[tuple[str, int]] = Counter()
        self._logged_at: dict[tuple[str, int], float] = {}

    def routes(self) -> list[web.RouteDef]:
        """What is served."""
        return [web.post("/api/webhooks/{provider}", self._take)]

    async def _take(self, request: web.Request) -> web.Response:
        begin_request(request.headers.get("x-request-id"))
        provider = self._catalog.current.providers.get(request.match_info["provider"])
        if provider is None or provider.webhooks is None:
            return _refusal(404)
        try:
            async with asyncio.timeout(_READ_TIMEOUT_SECONDS):
                body = await _body_of(request)
            if len(body) > BODY_LIMIT_BYTES:
                return self._answer(provider, 413, None)
            report = await self._read(provider, request.headers, body)
            return self._answer(provider, 200, None, applied=await self._report(provider, report))
        except TimeoutError:
            return self._answer(provider, 408, None)
        except BROKEN_BODY:
            return self._answer(provider, 400, None)
        except GenerationError as error:
            if error.code is ErrorCode.AUTHENTICATION_FAILED:
                self._keys.doubt(provider)
            return self._answer(provider, _STATUS_OF_CODE.get(error.code, 503), error)

    async def _read(self, provider: Provider, headers: Mapping[str, str], body: bytes) -> WebhookReport:
        kind: type[Adapter] = adapters()[provider.adapter]
        secret = await self._keys.secret_of(provider) if kind.signs_webhooks else ""
        lowered = {name.lower(): value for name, value in headers.items()}
        return kind.unconnected().parse_webhook(lowered, body, secret=secret, now=self._now())

    async def _report(self, provider: Provider, report: WebhookReport) -> bool:
        message = _message(provider, report)
        # Whoever can send anything must not make us look for it again and again.
        is_signed = adapters()[provider.adapter].signs_webhooks
        for wait in (*(_EARLY_WAITS_SECONDS if is_signed else ()), None):
            try:
                return (await self._poller.ReportTask(message, timeout=_REPORT_TIMEOUT_SECONDS)).applied
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND or wait is None:
                    raise from_rpc_error(error) from error
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _answer(
        self, provider: Provider, status: int, error: GenerationError | None, *, applied: bool = False
    ) -> web.Response:
        outcome = "applied" if applied else "ignored" if status == 200 else str(status)
        metrics.WEBHOOKS.labels(provider.id, outcome).inc()
        if error is not None:
            self._log_refusal(provider, status, error)
        return web.Response() if status == 200 else _refusal(status)

    def _log_refusal(self, provider: Provider, status: int, error: GenerationError) -> None:
        """Log refusals once a minute for each provider and status, with their number, because anyone can cause them."""
        self._refusals[provider.id, status] += 1
        now = monotonic()
        if now - self._logged_at.get((provider.id, status), -_LOG_SECONDS) < _LOG_SECONDS:
            return
        self._logged_at[provider.id, status] = now
        count = self._refusals.pop((provider.id, status))
        log.warning("webhook refused", provider=provider.id, status=status, error=error, count=count)


def _refusal(status: int) -> web.Response:
    """Return the response to a refused webhook.

    It does not tell which providers and tasks exist, nor why a signature is invalid.
    """
    return plain_problem(http_problem(status, HTTPStatus(status).phrase, "The webhook was refused."))


def _message(provider: Provider, report: WebhookReport) -> poller_pb2.ReportTaskRequest:
    message = poller_pb2.ReportTaskRequest(provider_id=provider.id, task_id=report.task_id)
    status = report.status
    if status is None or any(output.needs_credentials for output in status.outputs):
        return message
    try:
        message.state = poller_pb2.TaskState.Value(f"TASK_STATE_{status.state}")
        message.output_urls.extend(output.url for output in status.outputs if output.url)
        if status.progress is not None:
            message.progress = status.progress
        if status.error is not None:
            ParseDict(status.error.to_json() | {"code": f"ERROR_CODE_{status.error.code}"}, message.error)
    except (ValueError, ParseError) as error:
        # For instance half a surrogate pair, which JSON can say and UTF-8 cannot.
        raise GenerationError(ErrorCode.PROVIDER_ERROR, "The webhook cannot be read.") from error
    return message


async def _body_of(request: web.Request) -> bytes:
    """The body, or one byte more than the limit of one that is larger."""
    body = b""
    while len(body) <= BODY_LIMIT_BYTES and not request.content.at_eof():
        chunk = await request.content.read(BODY_LIMIT_BYTES + 1 - len(body))
        hold_bytes(request, len(chunk))
        body += chunk
    return body
