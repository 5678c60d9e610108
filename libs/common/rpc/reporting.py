"""The client of the error log: each warning and error that a service logs is handed to the monitor, in groups.

It never keeps its caller waiting and never fails it. What the monitor does not take waits in a buffer with a bound;
what finds the buffer full is counted. A process that is killed takes its buffer with it; its logs have the lines.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import Any

import structlog
from darkroom.common.v1 import common_pb2
from darkroom.monitor.v1 import monitor_pb2
from google.protobuf.json_format import ParseError

from libs.common import metrics
from libs.common.errors import ErrorCode, GenerationError
from libs.common.ids import new_id
from libs.common.logging import STACK_LIMIT
from libs.common.rpc.structs import to_struct

log = structlog.get_logger()
Send = Callable[[list[monitor_pb2.ErrorEntry]], Awaitable[None]]
"""Hands errors to the monitor. Raises GenerationError where it does not take them."""

FLUSH_SECONDS = 0.5
_BATCH_ENTRIES = 500
_BATCH_BYTES = 1024**2
_CONTEXT_LIMIT = 8_000
_MESSAGE_LIMIT = 1_000
_LAST_SECONDS = 3.0
_LONGEST_PAUSE_SECONDS = 5.0
_LEVELS = {
    "warn": monitor_pb2.ERROR_LEVEL_WARN,
    "error": monitor_pb2.ERROR_LEVEL_ERROR,
    "fatal": monitor_pb2.ERROR_LEVEL_CRITICAL,
}
# A repeat would be refused too.
_NEVER_TAKEN = {ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_PARAMETERS, ErrorCode.INTERNAL_ERROR}
# What has a place of its own, or is said already.
_NO_CONTEXT = {"event", "level", "timestamp", "source", "error", "request_id", "generation_id", "provider_task_id"}


class Reporter:
    """Buffers and sends.

    Args:
        source: the service.
        send: hands a group to the monitor.
        entries: how many wait at most.
        size_bytes: how large they are together at most.
    """

    def __init__(self, source: str, send: Send, *, entries: int, size_bytes: int) -> None:
        self._source = source
        self._send = send
        self._entries, self._size_bytes = entries, size_bytes
        self._waiting: deque[monitor_pb2.ErrorEntry] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._failures = 0
        self._not_before = 0.0

    def take(self, event: Mapping[str, Any]) -> None:
        """Buffer an event of the log. From any thread; it never raises."""
        try:
            entry = _entry(self._source, event)
        except (ValueError, TypeError, KeyError, ParseError):
            # An event that no error can be made of has been logged all the same.
            metrics.ERRORS_DROPPED.inc()
            return
        size = entry.ByteSize()
        with self._lock:
            if len(self._waiting) >= self._entries or self._bytes + size > self._size_bytes:
                metrics.ERRORS_DROPPED.inc()
                return
            self._waiting.append(entry)
            self._bytes += size
            metrics.ERRORS_BUFFERED.set(len(self._waiting))

    async def flush(self) -> bool:
        """Hand the oldest to the monitor; whether there are more. A turn of a loop."""
        batch = self._batch()
        if not batch or monotonic() < self._not_before:
            return False
        try:
            await self._hand_over(batch)
        except GenerationError as error:
            self._failures += 1
            self._not_before = monotonic() + min(_LONGEST_PAUSE_SECONDS, FLUSH_SECONDS * 2 ** min(self._failures, 10))
            # No louder, or each failure would make another error.
            log.debug("errors wait for the monitor", waiting=len(self._waiting), error=error)
            return False
        self._failures = 0
        self._forget(batch)
        return bool(self._waiting)

    async def _hand_over(self, batch: list[monitor_pb2.ErrorEntry]) -> None:
        """Send them. One that the monitor will never take does not keep the others: it is counted, and that is all."""
        try:
            await self._send(batch)
            for entry in batch:
                metrics.ERRORS_REPORTED.labels(_word(entry.level)).inc()
        except Exception as error:
            if isinstance(error, GenerationError) and error.code not in _NEVER_TAKEN:
                raise
            if len(batch) == 1:
                metrics.ERRORS_DROPPED.inc()
                log.info("an error was not taken by the monitor", about=batch[0].message, error=error)
                return
            for entry in batch:
                await self._hand_over([entry])

    def _forget(self, batch: list[monitor_pb2.ErrorEntry]) -> None:
        with self._lock:
            for entry in batch:
                self._waiting.popleft()
                self._bytes -= entry.ByteSize()
            metrics.ERRORS_BUFFERED.set(len(self._waiting))

    async def close(self) -> None:
        """Hand over what is left, as far as the monitor takes it within seconds."""
        self._not_before = 0.0
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                while await self.flush():
                    pass
        except TimeoutError:
            pass
        if self._waiting:
            log.info("errors were not reported", errors=len(self._waiting))

    def _batch(self) -> list[monitor_pb2.ErrorEntry]:
        with self._lock:
            found = list(islice(self._waiting, _BATCH_ENTRIES))
        taken, size = 0, 0
        for entry in found:
            size += entry.ByteSize()
            if taken and size > _BATCH_BYTES:
                break
            taken += 1
        return found[:taken]


def _word(level: int) -> str:
    return next(word for word, number in _LEVELS.items() if number == level)


def _entry(source: str, event: Mapping[str, Any]) -> monitor_pb2.ErrorEntry:
    error = event.get("error")
    error = error if isinstance(error, Mapping) else {}
    name = str(error.get("name", ""))
    message = str(event.get("event", ""))
    if error.get("message"):
        message = f"{message}: {error['message']}"
    provider = event.get("provider")
    entry = monitor_pb2.ErrorEntry(
        id=new_id("log"),
        level=_LEVELS.get(str(event.get("level")), monitor_pb2.ERROR_LEVEL_ERROR),
        source=f"adapter:{provider}" if provider else source,
        code=_code(name),
        message=_text(message, _MESSAGE_LIMIT),
        stack=_text(str(error.get("stack", "")), STACK_LIMIT),
        context=to_struct(_context(event, error)),
        request_id=_text(str(event.get("request_id") or ""), 100),
        generation_id=_text(str(event.get("generation_id") or ""), 100),
        provider_task_id=_text(str(event.get("provider_task_id") or ""), 500),
    )
    entry.occurred_at.FromDatetime(datetime.fromisoformat(event["timestamp"]))
    return entry


def _code(name: str) -> common_pb2.ErrorCode.ValueType:
    if name in ErrorCode.__members__:
        return common_pb2.ErrorCode.Value(f"ERROR_CODE_{name}")
    return common_pb2.ERROR_CODE_INTERNAL_ERROR if name else common_pb2.ERROR_CODE_UNSPECIFIED


def _context(event: Mapping[str, Any], error: Mapping[str, Any]) -> dict[str, Any]:
    """The other fields, as JSON values; what is too large of them is left out."""
    found = {key: value for key, value in event.items() if key not in _NO_CONTEXT and not key.startswith("_")}
    if error.get("details"):
        found["details"] = error["details"]
    if error.get("name") and error["name"] not in ErrorCode.__members__:
        found["exception"] = error["name"]
    text = json.dumps(found, default=str)
    if len(text) > _CONTEXT_LIMIT:
        text = json.dumps({"cut": text[:_CONTEXT_LIMIT]})
    values: dict[str, Any] = json.loads(text.replace("\\u0000", ""))
    return values


def _text(text: str, limit: int) -> str:
    # Postgres takes no NUL, and protobuf no half of a surrogate pair.
    clean = text.replace("\x00", "").encode(errors="replace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
