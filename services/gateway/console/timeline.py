"""A generation's life as events in their order: what was done, how long each took, what was waited for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from darkroom.monitor.v1 import monitor_pb2

from libs.common.database.records import GenerationRecord, Json
from libs.common.database.records_dispatch import SubmissionRecord
from libs.common.database.records_edge import CallbackRecord
from libs.common.database.states import State
from libs.common.database.stores.console_reads import Behind
from services.gateway.console import formats, wording
from services.gateway.console.translations import gettext as _
from services.gateway.console.translations import ngettext
from services.gateway.console.viewer import current_viewer


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, or will.

    Attributes:
        code: of an error.
        detail: in words of the service that reported it.
        quote: a text of the provider's, to be shown as it is.
    """

    at: datetime
    title: str
    tone: str
    shape: str
    detail: str = ""
    code: str = ""
    is_ahead: bool = False
    quote: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of a generation. `logs` None: the monitor is away."""

    record: GenerationRecord
    behind: Behind
    submissions: Sequence[SubmissionRecord]
    callbacks: Sequence[CallbackRecord]
    logs: Sequence[monitor_pb2.ErrorEntry] | None


def timeline(known: Known) -> list[Event]:
    """The events, the earliest first; those that lie ahead last."""
    parts = (_beginning, _attempts, _fallbacks, _task, _storing, _logs, _ending, _callbacks, _rating)
    found = [event for part in parts for event in part(known)]
    return sorted(found, key=lambda event: (event.is_ahead, event.at))


def _beginning(known: Known) -> Iterator[Event]:
    record, request = known.record, known.behind.request
    yield Event(
        record.created_at,
        _("Accepted"),
        "calm",
        "○",
        _("by key %(key)s") % {"key": record.api_key_id or formats.NOTHING},
    )
    if record.experiment_id and record.requested_model_identifier:
        words = {"asked": record.requested_model_identifier, "variant": record.variant_id}
        detail = _("%(asked)s was asked for; variant %(variant)s") % words
        yield Event(record.created_at, _("Takes part in an experiment"), "calm", "⇄", detail)
    if record.batch_id and request.released_at > record.created_at:
        yield Event(request.released_at, _("Released from its batch"), "calm", "▷")
    if record.cancel_requested_at:
        yield Event(record.cancel_requested_at, _("Asked to be cancelled"), "warn", "⊘")
    if record.state == State.PENDING and record.attempts and record.next_attempt_at > current_viewer().now:
        yield Event(record.next_attempt_at, _("Next attempt"), "calm", "↺", is_ahead=True)


def _attempts(known: Known) -> Iterator[Event]:
    for one in known.submissions:
        words = {"attempt": one.attempt, "provider": one.provider_id}
        sent = _("Attempt %(attempt)s sent to %(provider)s") % words
        yield Event(one.started_at, sent, "busy", "↗", one.model_identifier or "")
        if one.ended_at is None:
            continue
        word = wording.word(one.state)
        title = _("Attempt %(attempt)s: %(outcome)s") % {"attempt": one.attempt, "outcome": word.text}
        facts = [f"HTTP {one.http_status}"] if one.http_status else []
        facts += [formats.seconds(one.latency_ms / 1_000)] if one.latency_ms else []
        facts += [_("task %(task)s") % {"task": one.provider_task_id}] if one.provider_task_id else []
        facts += [one.error["message"]] if one.error else []
        code = one.error["code"] if one.error else ""
        yield Event(one.ended_at, title, word.tone, word.shape, " · ".join(facts), code)
        if one.reply:
            title = _("The provider's reply could not be read in full")
            facts = [one.reply.get("content_type") or "", formats.size(one.reply.get("size_bytes") or 0)]
            detail = " · ".join(filter(None, facts))
            yield Event(one.ended_at, title, "warn", "▲", detail, quote=one.reply.get("body") or "")
        if one.resolved_at and one.resolution:
            resolution = wording.word(one.resolution).text
            title = _("An operator resolved it: %(resolution)s") % {"resolution": resolution}
            yield Event(one.resolved_at, title, "good", "✓", one.resolution_note or "")


def _fallbacks(known: Known) -> Iterator[Event]:
    for step in known.record.fallback_path:
        title = _("Left %(model)s for its fallback") % {"model": step["model_identifier"]}
        yield Event(datetime.fromisoformat(step["left_at"]), title, "warn", "⤳", step["provider_id"], step["code"])


def _task(known: Known) -> Iterator[Event]:
    task = known.behind.task
    if task is None:
        return
    words = {"strategy": task.strategy, "seconds": formats.seconds(task.poll_interval_ms / 1_000)}
    detail = _("polled %(strategy)s, %(seconds)s at first") % words
    yield Event(task.created_at, _("Handed to the poller"), "busy", "⇢", detail)
    polls = ngettext("%(number)s poll", "%(number)s polls", task.attempts) % {"number": formats.number(task.attempts)}
    if task.ended_at:
        word = wording.word(task.state)
        title = _("The provider's task: %(outcome)s") % {"outcome": word.text}
        yield Event(task.ended_at, title, word.tone, word.shape, polls)
        return
    failed = _("%(number)s failed in a row") % {"number": task.retry_count} if task.retry_count else ""
    facts = [polls, formats.percent(task.progress / 100, 0), failed, *([_message(task.last_error)])]
    yield Event(task.next_poll_at, _("Next poll"), "busy", "◑", " · ".join(filter(None, facts)), is_ahead=True)
    yield Event(task.deadline_at, _("Counts as lost"), "calm", "◷", is_ahead=True)


def _storing(known: Known) -> Iterator[Event]:
    record, request = known.record, known.behind.request
    tries = ngettext("%(number)s try", "%(number)s tries", request.store_attempts) % {"number": request.store_attempts}
    if record.state == State.STORING:
        yield Event(record.updated_at, _("On its way into storage"), "busy", "◕", tries, _code(record.error))
    elif record.state == State.SUCCESS and record.outputs and record.ended_at and not record.reused_from_id:
        kept = sum(output.get("size_bytes", 0) for output in record.outputs)
        words = {"number": len(record.outputs), "size": formats.size(kept)}
        detail = ngettext("%(number)s file, %(size)s", "%(number)s files, %(size)s", len(record.outputs)) % words
        yield Event(record.ended_at, _("Stored"), "good", "▣", detail)


def _logs(known: Known) -> Iterator[Event]:
    for entry in known.logs or ():
        level = monitor_pb2.ErrorLevel.Name(entry.level).removeprefix("ERROR_LEVEL_")
        word = wording.word(level)
        at = formats.instant(entry.occurred_at)
        if at is not None:
            title = _("%(source)s logged: %(level)s") % {"source": entry.source, "level": word.text}
            yield Event(at, title, word.tone, word.shape, entry.message, wording.code(entry.code))


def _ending(known: Known) -> Iterator[Event]:
    record = known.record
    if record.ended_at is None:
        return
    word = wording.word(record.state)
    facts = [_message(record.error)] if record.state != State.SUCCESS else []
    if record.state == State.SUCCESS:
        facts.append(formats.money(record.cost_usd or 0.0))
        if record.reused_from_id:
            facts.append(_("the result of %(id)s was taken, without a bill") % {"id": record.reused_from_id})
    title = _("Ended: %(outcome)s") % {"outcome": word.text}
    code = _code(record.error) if record.state != State.SUCCESS else ""
    yield Event(record.ended_at, title, word.tone, word.shape, " · ".join(filter(None, facts)), code)


def _callbacks(known: Known) -> Iterator[Event]:
    for one in known.callbacks:
        word = wording.word(one.state)
        words = {"event": one.event, "outcome": word.text}
        facts = [ngettext("%(number)s try", "%(number)s tries", one.attempts) % {"number": one.attempts}]
        facts += [f"HTTP {one.last_http_status}"] if one.last_http_status else []
        facts += [one.last_error] if one.last_error and one.ended_at is None else []
        title = _("Callback %(event)s: %(outcome)s") % words
        yield Event(one.ended_at or one.created_at, title, word.tone, "✉", " · ".join(facts))


def _rating(known: Known) -> Iterator[Event]:
    rating = known.behind.rating
    if rating is not None:
        title = _("Rated %(rating)s of 5") % {"rating": rating.rating}
        yield Event(rating.created_at, title, "calm", "★", rating.feedback)


def _message(error: Json | None) -> str:
    return str(error["message"]) if error else ""


def _code(error: Json | None) -> str:
    return str(error["code"]) if error else ""
