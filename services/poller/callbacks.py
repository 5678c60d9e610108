"""Callbacks: signed, sent until they are taken or a day is over, one after the other for a generation.

Each rides in the transaction of the change that it tells of, so none is lost; one may come twice, with the same id.
Source of the format: https://www.standardwebhooks.com.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import aiohttp
import structlog
from yarl import URL

from libs.common import metrics, tracing
from libs.common.adapters.http import retry_after
from libs.common.adapters.signatures import standard_headers
from libs.common.api_keys import callback_secret_bytes
from libs.common.catalog import Retry
from libs.common.coalesce import GroupWriter
from libs.common.database.records import Json
from libs.common.database.records_edge import CallbackOutcome, ClaimedCallback
from libs.common.database.states import CallbackState
from libs.common.database.stores.callbacks import CallbackQueue
from libs.common.errors import GenerationError
from libs.common.hosts import host_of
from libs.common.retry import wait_seconds
from libs.common.rpc.context import follow
from libs.common.rpc.json import to_json
from libs.common.rpc.messages import UrlOf, error_message, output_messages
from libs.common.settings import Settings, listed
from libs.common.storage.addresses import check_url, guarded_session

log = structlog.get_logger()
LATE_RESULT = "generation.late_result"
"""The event of a generation that holds the result of another one, which had timed out."""
_REDIRECTS = 3
# These keep method and body; others turn a POST into something else.
_REDIRECT_STATUSES = {307, 308}
_GONE = 410
# How often is the row's word: it is given up after a day.
RETRY = Retry(first_wait_seconds=5, longest_wait_seconds=3_600, longest_retry_after_seconds=3_600)
_POSTPONE_SECONDS = 1.0
# One receiver that hangs must leave places for the others.
_PLACES_OF_A_HOST = 0.25


class Callbacks:
    """Delivers.

    Args:
        queue: claims and outcomes.
        settings: how many at once, how long each may take, where to.
        secret: what the secrets of keys follow from.
        url_of: gives URLs of results.
    """

    def __init__(self, queue: CallbackQueue, settings: Settings, *, secret: str, url_of: UrlOf) -> None:
        self._queue = queue
        self._secret = secret
        self._url_of = url_of
        self._places = settings.callback_concurrency
        self._allowed_hosts = listed(settings.callback_allowed_hosts)
        self._timeout = aiohttp.ClientTimeout(total=settings.callback_timeout_seconds)
        self._session: aiohttp.ClientSession | None = None
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._hosts: Counter[str] = Counter()
        self._writer: GroupWriter[CallbackOutcome, CallbackState | None] = GroupWriter("callbacks", queue.end)

    async def claim(self) -> bool:
        """Take what is due and there are places for; whether there is more. One iteration of a loop."""
        free = self._places - len(self._busy)
        if free <= 0:
            return False
        claimed = await self._queue.claim(free)
        crowded = [callback for callback in claimed if not self._start(callback)]
        if crowded:
            await self._queue.postpone([callback.id for callback in crowded], _POSTPONE_SECONDS)
        return len(claimed) == free and not crowded

    async def drain(self) -> None:
        """Let those under way end; each is short."""
        while self._busy:
            await asyncio.wait(self._busy.values())

    async def close(self) -> None:
        """Close all connections."""
        await self._writer.close()
        if self._session is not None:
            await self._session.close()

    def _start(self, callback: ClaimedCallback) -> bool:
        host = host_of(URL(callback.url))
        if self._hosts[host] >= max(1, int(self._places * _PLACES_OF_A_HOST)):
            return False
        self._hosts[host] += 1
        task = asyncio.create_task(self._deliver(callback))
        self._busy[callback.id] = task

        def forget(_: asyncio.Task[None]) -> None:
            del self._busy[callback.id]
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

        task.add_done_callback(forget)
        return True

    async def _deliver(self, callback: ClaimedCallback) -> None:
        subject = callback.generation_id or callback.batch_id or ""
        follow(callback.request_id, subject)
        try:
            with tracing.resumed("deliver callback", callback.trace_parent, subject):
                outcome = await self._try(callback)
                state = await self._writer.write(outcome)
        except Exception:
            # The lease ends, and another try follows.
            log.exception("callback failed", callback_id=callback.id)
            return
        word = {CallbackState.DELIVERED: "delivered", CallbackState.DEAD: "dead"}.get(state, "failed") if state else ""
        metrics.CALLBACKS.labels(callback.event, word or "fenced").inc()
        log.info(
            "callback tried",
            callback_id=callback.id,
            callback_event=callback.event,
            outcome=word,
            http_status=outcome.http_status,
            why=outcome.error,
            attempts=callback.attempts,
        )

    async def _try(self, callback: ClaimedCallback) -> CallbackOutcome:
        body = json.dumps(self._payload(callback), ensure_ascii=False, separators=(",", ":")).encode()
        try:
            status, seconds = await self._post(callback, body)
        except GenerationError as error:
            return self._failed(callback, None, error.message, is_hopeless=True)
        except TimeoutError:
            return self._failed(callback, None, f"There was no answer within {self._timeout.total:g} s.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._failed(callback, None, f"It could not be sent: {type(error).__name__}.")
        if 200 <= status < 300:
            return CallbackOutcome(callback.id, callback.lease_token, is_delivered=True, http_status=status)
        if status == _GONE:
            return self._failed(callback, status, "The receiver says that it is gone for good.", is_hopeless=True)
        return self._failed(callback, status, f"The receiver answered {status}.", at_least_seconds=seconds)

    async def _post(self, callback: ClaimedCallback, body: bytes) -> tuple[int, float | None]:
        """The status of the answer, and after how many seconds it wants another. Raises GenerationError if refused."""
        target = URL(callback.url)
        for _ in range(_REDIRECTS + 1):
            check_url(target, self._allowed_hosts)
            headers = signed_headers(callback, body, secret=self._secret, now=time.time())
            async with self._connected().post(
                target, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                if response.status in _REDIRECT_STATUSES and "location" in response.headers:
                    target = target.join(URL(response.headers["location"]))
                    continue
                return response.status, retry_after(response.headers.get("retry-after"))
        raise ValueError("too many redirects")

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = guarded_session(self._allowed_hosts)
        return self._session

    def _payload(self, callback: ClaimedCallback) -> dict[str, Any]:
        data = self._of_generation(callback) if callback.content is None else of_batch(callback, callback.content)
        return {"type": callback.event, "timestamp": callback.created_at.isoformat(), "data": data}

    def _of_generation(self, callback: ClaimedCallback) -> dict[str, Any]:
        is_late = callback.event == LATE_RESULT
        status = "SUCCESS" if is_late else callback.event.removeprefix("generation.").upper()
        data: dict[str, Any] = {
            "id": callback.generation_id,
            "status": status,
            "modelIdentifier": callback.model_identifier,
            "userId": callback.user_id or "",
            "labels": callback.labels,
            "requestId": callback.request_id,
        }
        # A row that has ended never changes; one that goes on may be further by now than the event says.
        if status == "SUCCESS":
            data["results"] = [to_json(output) for output in output_messages(callback.outputs or [], self._url_of)]
            data["costUsd"] = callback.cost_usd or 0.0
        elif status in {"FAILED", "CANCELLED"} and callback.error:
            data["error"] = to_json(error_message(callback.error))
        if is_late:
            data["continuesId"] = callback.continues_id
        return data

    def _failed(
        self,
        callback: ClaimedCallback,
        status: int | None,
        why: str,
        *,
        at_least_seconds: float | None = None,
        is_hopeless: bool = False,
    ) -> CallbackOutcome:
        return CallbackOutcome(
            id=callback.id,
            lease_token=callback.lease_token,
            is_delivered=False,
            http_status=status,
            error=why,
            delay_seconds=wait_seconds(RETRY, callback.attempts, at_least_seconds=at_least_seconds),
            is_hopeless=is_hopeless,
        )


def of_batch(callback: ClaimedCallback, content: Json) -> dict[str, Any]:
    """A batch's counters as they were when the callback was written, by the names that REST has for them."""
    ended = sum(content[f"{name}_tasks"] for name in ("completed", "failed", "cancelled", "skipped"))
    return {
        "batchId": callback.batch_id,
        "status": content["status"],
        "totalTasks": content["total_tasks"],
        "completedTasks": content["completed_tasks"],
        "failedTasks": content["failed_tasks"],
        "cancelledTasks": content["cancelled_tasks"],
        "skippedTasks": content["skipped_tasks"],
        "progress": 100 * ended // content["total_tasks"],
        "costUsd": content["cost_usd"],
        "requestId": callback.request_id,
    }


def signed_headers(callback: ClaimedCallback, body: bytes, *, secret: str, now: float) -> dict[str, str]:
    """What a receiver verifies with the secret of the key that made the generation."""
    return standard_headers(callback.id, body, callback_secret_bytes(callback.api_key_id, secret), now=now)
