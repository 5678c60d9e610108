"""The error log between messages and rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from darkroom.common.v1 import common_pb2
from darkroom.monitor.v1 import monitor_pb2

from libs.common.database.records_monitor import ErrorFilter, ErrorGroup, Fault, GroupFilter, LoggedError, NewError
from libs.common.database.states import ErrorLevel
from libs.common.errors import FieldViolation
from libs.common.ids import new_id
from libs.common.rpc.messages import timestamp
from libs.common.rpc.requests import raise_for, text_faults, time_of
from libs.common.rpc.structs import from_struct, to_struct
from services.monitor.fingerprints import cause, fingerprint

ENTRIES_LIMIT = 1_000
_LIMITS = {
    "source": 200, "message": 1_000, "stack": 10_000, "request_id": 200, "provider_task_id": 500, "generation_id": 200,
}  # fmt: skip
_CONTEXT_LIMIT_BYTES = 16_000
_LEVELS = {
    monitor_pb2.ERROR_LEVEL_WARN: ErrorLevel.WARN,
    monitor_pb2.ERROR_LEVEL_ERROR: ErrorLevel.ERROR,
    monitor_pb2.ERROR_LEVEL_CRITICAL: ErrorLevel.CRITICAL,
}
_NUMBERS = {level: number for number, level in _LEVELS.items()}
_CODES: dict[int, str] = {int(number): str(name) for name, number in common_pb2.ErrorCode.items()}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID = re.compile(r"log_[0-9a-z]{26}")
_TOKEN = re.compile(r"at_(\d{1,17})_(err_[0-9a-z]{1,40})")


def new_errors(entries: Sequence[monitor_pb2.ErrorEntry]) -> list[NewError]:
    """Errors to be kept. InvalidRequest with every fault."""
    found: list[FieldViolation] = []
    if not 1 <= len(entries) <= ENTRIES_LIMIT:
        found.append(FieldViolation("errors", "count", f"must be 1 to {ENTRIES_LIMIT}"))
    raise_for(found)
    errors = [_new_error(entry, f"errors[{index}]", found) for index, entry in enumerate(entries)]
    raise_for(found)
    return errors


def _new_error(entry: monitor_pb2.ErrorEntry, path: str, found: list[FieldViolation]) -> NewError:
    found += text_faults({name: getattr(entry, name) for name in _LIMITS}, _LIMITS, prefix=f"{path}.")
    if entry.level not in _LEVELS:
        found.append(FieldViolation(f"{path}.level", "one_of", "must be one of the levels"))
    if not entry.source:
        found.append(FieldViolation(f"{path}.source", "required", "is required"))
    if entry.id and not _ID.fullmatch(entry.id):
        found.append(FieldViolation(f"{path}.id", "format", "must be log_ and 26 characters"))
    if entry.context.ByteSize() > _CONTEXT_LIMIT_BYTES:
        found.append(FieldViolation(f"{path}.context", "size", f"must be at most {_CONTEXT_LIMIT_BYTES} bytes"))
    occurred_at = datetime.now(UTC)
    if entry.HasField("occurred_at"):
        occurred_at = time_of(entry.occurred_at, f"{path}.occurred_at", found) or occurred_at
    code = code_word(entry.code)
    fault = LoggedError(
        id=entry.id or new_id("log"),
        level=_LEVELS.get(entry.level, ErrorLevel.ERROR),
        source=entry.source,
        code=code,
        message=entry.message,
        stack=entry.stack,
        context=from_struct(entry.context),
        request_id=entry.request_id,
        generation_id=entry.generation_id,
        provider_task_id=entry.provider_task_id,
        occurred_at=occurred_at,
    )
    print_of_fault = fingerprint(fault.source, code, fault.message, fault.stack, cause(fault.context))
    return NewError(fault, print_of_fault, new_id("err"))


def code_word(number: int) -> str:
    """The code of an enum's number; empty for none."""
    return _CODES.get(number, "").removeprefix("ERROR_CODE_").replace("UNSPECIFIED", "")


def code_number(word: str) -> common_pb2.ErrorCode.ValueType:
    """The enum's number of a code."""
    return common_pb2.ErrorCode.Value(f"ERROR_CODE_{word or 'UNSPECIFIED'}")


def group_filter(request: monitor_pb2.ListErrorsRequest) -> GroupFilter:
    """Which groups are wanted. InvalidRequest with every fault."""
    found = text_faults(
        {"source": request.source, "text": request.text, "id": request.id}, {"source": 200, "text": 500, "id": 200}
    )
    if request.level and request.level not in _LEVELS:
        found.append(FieldViolation("level", "one_of", "must be one of the levels"))
    if request.code and not code_word(request.code):
        found.append(FieldViolation("code", "one_of", "must be one of the codes"))
    raise_for(found)
    level = _LEVELS.get(request.level)
    return GroupFilter(
        level=level.value if level else "",
        source=request.source,
        code=code_word(request.code),
        text=request.text,
        include_resolved=request.include_resolved,
        id=request.id,
    )


def error_filter(request: monitor_pb2.ListErrorLogsRequest) -> ErrorFilter:
    """Which single errors are wanted. InvalidRequest with every fault."""
    ids = {name: getattr(request, name) for name in ("group_id", "request_id", "generation_id")}
    found = text_faults(ids, dict.fromkeys(ids, 200))
    if not (request.group_id or request.request_id or request.generation_id):
        found.append(FieldViolation("group_id", "required", "one of group_id, request_id and generation_id is needed"))
    raise_for(found)
    return ErrorFilter(request.group_id, request.request_id, request.generation_id)


def group_start(token: str) -> tuple[datetime, str] | None:
    """Where the page before ended; None for the first. InvalidRequest for what no page gave."""
    if not token:
        return None
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise_for([FieldViolation("page_token", "format", "must be the next_page_token of a page before")])
        return None
    return _EPOCH + timedelta(microseconds=int(match[1])), match[2]


def group_token(group: ErrorGroup) -> str:
    """What the next page begins after. It has the time as it was, for the group may be seen again meanwhile."""
    return f"at_{(group.last_seen_at - _EPOCH) // timedelta(microseconds=1)}_{group.id}"


def group_message(group: ErrorGroup) -> monitor_pb2.ErrorGroup:
    """A group as an operator sees it."""
    return monitor_pb2.ErrorGroup(
        id=group.id,
        example=_entry(group, "", group.last_seen_at),
        count=group.count,
        first_seen_at=timestamp(group.first_seen_at),
        last_seen_at=timestamp(group.last_seen_at),
        resolved_at=timestamp(group.resolved_at),
        resolved_by=group.resolved_by or "",
        resolution_note=group.resolution_note or "",
        recent_counts=group.recent_counts,
        regressions=group.regressions,
        regressed_at=timestamp(group.regressed_at),
    )


def error_message(error: LoggedError) -> monitor_pb2.ErrorEntry:
    """A single error as an operator sees it."""
    return _entry(error, error.id, error.occurred_at)


def _entry(fault: Fault, error_id: str, occurred_at: datetime) -> monitor_pb2.ErrorEntry:
    return monitor_pb2.ErrorEntry(
        id=error_id,
        level=_NUMBERS[fault.level],
        source=fault.source,
        code=code_number(fault.code),
        message=fault.message,
        stack=fault.stack,
        context=to_struct(fault.context),
        request_id=fault.request_id,
        generation_id=fault.generation_id,
        provider_task_id=fault.provider_task_id,
        occurred_at=timestamp(occurred_at),
    )
