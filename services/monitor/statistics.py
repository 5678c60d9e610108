"""Statistics of any range: from counts by the minute and the hour, never from the generations themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from darkroom.common.v1 import common_pb2
from darkroom.monitor.v1 import monitor_pb2

from libs.common.database.records_monitor import ErrorGroup, InstanceRecord
from libs.common.database.states import State, SubmissionState, TaskState
from libs.common.database.stores.errors import ErrorStore
from libs.common.database.stores.instances import InstanceStore
from libs.common.database.stores.statistics import (
    HOURS_DAYS,
    MINUTES_DAYS,
    Count,
    Segment,
    StatisticsStore,
    at_risk_usd,
    percentile,
    spent_usd,
)
from libs.common.errors import MAPPINGS, ErrorCode, FieldViolation
from libs.common.rpc.messages import timestamp
from libs.common.rpc.requests import raise_for, time_of
from services.monitor.error_log import code_number

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ANSWERED = {SubmissionState.ACCEPTED.value, SubmissionState.COMPLETED.value}
_FOLD_LIMIT = 20_000


def segments(from_time: datetime, to_time: datetime, now: datetime) -> list[Segment]:
    """What is read for a range: whole days by the day, whole hours beside them by the hour, the ends by the minute.

    Beyond what is kept, an end moves outward: to a whole hour, and to a whole day.
    """
    begin, end = max(from_time, _EPOCH).replace(second=0, microsecond=0), min(to_time, now + _DAY)
    for kept_days, unit in ((MINUTES_DAYS, _HOUR), (HOURS_DAYS, _DAY)):
        kept_from = _up(now - timedelta(days=kept_days), _DAY)
        begin = begin if begin >= kept_from else _down(begin, unit)
        end = end if end >= kept_from else _up(end, unit)
    return _by_days(begin, end)


def _by_days(begin: datetime, end: datetime) -> list[Segment]:
    first, last = _up(begin, _DAY), _down(end, _DAY)
    if first >= last:
        return _by_hours(begin, end)
    return [*_by_hours(begin, first), Segment("day", first, last), *_by_hours(last, end)]


def _by_hours(begin: datetime, end: datetime) -> list[Segment]:
    first, last = _up(begin, _HOUR), _down(end, _HOUR)
    if first >= last:
        return _by_minutes(begin, end)
    return [*_by_minutes(begin, first), Segment("hour", first, last), *_by_minutes(last, end)]


def _by_minutes(begin: datetime, end: datetime) -> list[Segment]:
    return [Segment("minute", begin, end)] if begin < end else []


def _down(time: datetime, unit: timedelta) -> datetime:
    return time - (time - _EPOCH) % unit


def _up(time: datetime, unit: timedelta) -> datetime:
    return time + (_EPOCH - time) % unit


def _within(time: datetime) -> datetime:
    return min(max(time, _FIRST), _LAST)


def asked_range(
    request: monitor_pb2.GetStatsRequest | monitor_pb2.GetErrorStatsRequest, now: datetime
) -> tuple[datetime, datetime]:
    """Return the start and the end of the range; by default the last 24 hours. Raises InvalidRequest with all faults.

    Times are clamped to the years 1970 to 9000, because arithmetic with others overflows, and there are no data then.
    """
    found: list[FieldViolation] = []
    begin = getattr(request, "from")
    to_time = time_of(request.to, "to", found) if request.HasField("to") else now
    from_time = time_of(begin, "from", found) if request.HasField("from") else None
    if from_time is not None and to_time is not None and from_time >= to_time:
        found.append(FieldViolation("from", "before", "must be before to"))
    raise_for(found)
    assert to_time is not None
    end = _within(to_time)
    return (end - _DAY if from_time is None else _within(from_time)), end


class Statistics:
    """Folds the ledger, and answers.

    Args:
        store: counts, for adding up.
        late_store: counts, for reading: of a standby, where there is one.
        errors: what each provider's last error was.
        instances: what the processes use.
    """

    def __init__(
        self, store: StatisticsStore, late_store: StatisticsStore, errors: ErrorStore, instances: InstanceStore
    ) -> None:
        self._store = store
        self._late_store = late_store
        self._errors = errors
        self._instances = instances

    async def fold(self) -> bool:
        """Add up what the ledger holds; whether there is more. A turn of a loop."""
        return await self._store.fold(_FOLD_LIMIT) == _FOLD_LIMIT

    async def stats(self, from_time: datetime, to_time: datetime) -> monitor_pb2.GetStatsResponse:
        """The statistics of a range."""
        # What has just ended is in it, where the primary is read.
        while await self.fold():
            pass
        wanted = segments(from_time, to_time, datetime.now(UTC))
        counts = await self._late_store.read(wanted)
        providers = sorted({count.provider_id for count in counts if count.kind == "submission_ended"})
        last = await self._errors.last_of([f"adapter:{provider}" for provider in providers])
        if wanted:
            from_time, to_time = wanted[0].from_time, wanted[-1].to_time
        answer = stats_message(counts, from_time, to_time)
        answer.active_requests = sum((await self._late_store.states()).values())
        answer.active_tasks = sum(tasks.live for tasks in await self._late_store.tasks())
        answer.adapter_stats.extend(
            _adapter_stats(provider, counts, last.get(f"adapter:{provider}")) for provider in providers
        )
        _add_use(answer, await self._instances.list_all())
        return answer


def stats_message(counts: Sequence[Count], from_time: datetime, to_time: datetime) -> monitor_pb2.GetStatsResponse:
    """What was counted, without what is under way, what adapters did and what processes use."""
    ended = [count for count in counts if count.kind == "generation_ended"]
    succeeded = [count for count in ended if count.outcome == State.SUCCESS.value]
    tasks = [count for count in counts if count.kind == "task_ended"]
    good = _number(task for task in tasks if task.outcome == TaskState.SUCCESS.value)
    bad = _number(task for task in tasks if task.outcome == TaskState.FAILED.value)
    created = _number(count for count in counts if count.kind == "generation_created")
    task_seconds = _average(task for task in tasks if task.outcome == TaskState.SUCCESS.value)
    seconds = max(1.0, (to_time - from_time).total_seconds())
    answer = monitor_pb2.GetStatsResponse(
        total_requests=created,
        request_rate=created / seconds,
        total_tasks=_number(count for count in counts if count.kind == "task_created"),
        completed_tasks=good,
        failed_tasks=bad,
        task_success_rate=good / (good + bad) if good + bad else 0.0,
        avg_task_duration_seconds=task_seconds,
        avg_task_duration=task_seconds * 1_000,
        p50_seconds=percentile(succeeded, 0.5),
        p95_seconds=percentile(succeeded, 0.95),
        p99_seconds=percentile(succeeded, 0.99),
        spend_usd=spent_usd(counts),
        spent_usd=spent_usd(counts),
        at_risk_usd=at_risk_usd(counts),
        to=timestamp(to_time),
        time_range=monitor_pb2.TimeRange(start=timestamp(from_time), end=timestamp(to_time)),
        model_stats=_model_stats(counts),
    )
    getattr(answer, "from").FromDatetime(from_time)
    return answer


def _model_stats(counts: Iterable[Count]) -> list[monitor_pb2.ModelStats]:
    by_model: dict[tuple[str, str], list[Count]] = defaultdict(list)
    for count in counts:
        if count.kind in {"generation_ended", "money_at_risk", "money_spent"}:
            by_model[count.model_identifier, count.provider_id].append(count)
    return [_one_model(model, provider, found) for (model, provider), found in sorted(by_model.items())]


def _one_model(model: str, provider: str, counts: Sequence[Count]) -> monitor_pb2.ModelStats:
    ended = [count for count in counts if count.kind == "generation_ended"]
    succeeded = [count for count in ended if count.outcome == State.SUCCESS.value]
    return monitor_pb2.ModelStats(
        model_identifier=model,
        provider_id=provider,
        succeeded=_number(succeeded),
        failed=_number(count for count in ended if count.outcome == State.FAILED.value),
        cancelled=_number(count for count in ended if count.outcome == State.CANCELLED.value),
        p50_seconds=percentile(succeeded, 0.5),
        p95_seconds=percentile(succeeded, 0.95),
        p99_seconds=percentile(succeeded, 0.99),
        spend_usd=spent_usd(counts),
        spent_usd=spent_usd(counts),
        at_risk_usd=at_risk_usd(counts),
    )


def _adapter_stats(provider: str, counts: Iterable[Count], last: ErrorGroup | None) -> monitor_pb2.AdapterStats:
    sent = [count for count in counts if count.kind == "submission_ended" and count.provider_id == provider]
    good = _number(count for count in sent if count.outcome in _ANSWERED)
    milliseconds = _average(sent) * 1_000
    answer = monitor_pb2.AdapterStats(
        adapter_name=provider,
        call_count=_number(sent),
        success_count=good,
        failure_count=_number(sent) - good,
        avg_response_time_ms=milliseconds,
        avg_response_time=milliseconds,
    )
    if last is not None:
        code = ErrorCode(last.code) if last.code in ErrorCode.__members__ else ErrorCode.INTERNAL_ERROR
        answer.last_error.CopyFrom(
            common_pb2.GenerationError(
                code=code_number(code.value), message=last.message, is_retryable=MAPPINGS[code].is_retryable
            )
        )
    return answer


def _add_use(answer: monitor_pb2.GetStatsResponse, instances: Iterable[InstanceRecord]) -> None:
    for instance in instances:
        answer.memory_usage_bytes += instance.resident_bytes
        answer.cpu_usage_percent += instance.cpu_percent
    answer.memory_usage, answer.cpu_usage = answer.memory_usage_bytes, answer.cpu_usage_percent


def _number(counts: Iterable[Count]) -> int:
    return sum(count.count for count in counts)


def _average(counts: Iterable[Count]) -> float:
    found = list(counts)
    number = _number(found)
    return sum(count.seconds for count in found) / number if number else 0.0
