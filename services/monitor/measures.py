"""What each type of rule measures: from the facts to figures by subject. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.common.database.stores.alert_facts import AlertFacts, WindowCount
from libs.common.errors import CALLERS_FAULTS, ErrorCode
from services.monitor.rules import Rule, RuleType

_EXAMPLES = 5
_CALLERS = {code.value for code in CALLERS_FAULTS}


@dataclass(frozen=True, slots=True)
class Measurement:
    """A figure about a subject, with how much it rests on and a sentence about it."""

    subject: str
    value: float
    message: str
    sample: int = 1
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    """What rules look at beside the rows.

    Attributes:
        down: of each component that is not up (`database`, `s3`, `adapter:…`, `service:…`), since how many seconds,
            and why.
        daily_limits_usd: of each provider account with a daily limit, that limit.
    """

    down: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    daily_limits_usd: Mapping[str, float] = field(default_factory=dict)


Measure = Callable[[Rule, AlertFacts, World], Iterable[Measurement]]


def _span(seconds: float) -> str:
    if seconds >= 7_200:
        return f"{seconds / 3_600:.3g} h"
    return f"{seconds / 60:.3g} min" if seconds >= 120 else f"{seconds:.0f} s"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _by_provider(counts: Iterable[WindowCount]) -> dict[str, list[WindowCount]]:
    found: dict[str, list[WindowCount]] = defaultdict(list)
    for count in counts:
        found[count.provider_id].append(count)
    return found


def _error_rate(rule: Rule, facts: AlertFacts, world: World) -> Iterable[Measurement]:
    del world
    for provider, counts in _by_provider(facts.counts.get(rule.window_seconds, ())).items():
        codes: Counter[str] = Counter()
        ended = 0
        for count in counts:
            if count.kind == "task_ended" or count.outcome == "CANCELLED" or count.code in _CALLERS:
                continue
            ended += count.count
            if count.outcome == "FAILED":
                codes[count.code] += count.count
        failed = codes.total()
        most = codes.most_common(1)[0][0] if codes else ""
        yield Measurement(
            provider,
            _share(failed, ended),
            f"{failed} of {ended} generations at {provider} failed in {_span(rule.window_seconds)}, most with {most}.",
            sample=ended,
            details={"failed": failed, "ended": ended, "codes": dict(codes.most_common(_EXAMPLES))},
        )


def _timeouts(rule: Rule, facts: AlertFacts, world: World) -> Iterable[Measurement]:
    del world
    for provider, counts in _by_provider(facts.counts.get(rule.window_seconds, ())).items():
        tasks = [count for count in counts if count.kind == "task_ended" and count.outcome != "CANCELLED"]
        ended = sum(count.count for count in tasks)
        late = sum(count.count for count in tasks if count.code == ErrorCode.TASK_TIMEOUT.value)
        yield Measurement(
            provider,
            _share(late, ended),
            f"{late} of {ended} tasks at {provider} were not ended in time in {_span(rule.window_seconds)}.",
            sample=ended,
            details={"timed_out": late, "ended": ended},
        )


def _retries(rule: Rule, facts: AlertFacts, world: World) -> Iterable[Measurement]:
    del world
    worst: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for repeated in facts.repeated.get(rule.window_seconds, ()):
        worst[repeated.provider_id].append((repeated.retries, repeated.generation_id))
    for provider, found in worst.items():
        found.sort(reverse=True)
        over = [generation_id for retries, generation_id in found if retries > rule.threshold]
        yield Measurement(
            provider,
            float(found[0][0]),
            f"{len(over)} generations at {provider} were tried again and again, one of them {found[0][0]} times.",
            details={"generation_ids": over[:_EXAMPLES], "generations": len(over)},
        )


def _queues(rule: Rule, facts: AlertFacts, world: World) -> Iterable[Measurement]:
    del rule, world
    for queue in facts.queues:
        yield Measurement(
            queue.provider_id,
            queue.oldest_seconds,
            f"{queue.waiting} generations wait for {queue.provider_id}, the oldest for {_span(queue.oldest_seconds)}.",
            details={"waiting": queue.waiting},
        )


def _budgets(rule: Rule, facts: AlertFacts, world: World) -> Iterable[Measurement]:
    del rule
    for provider, limit in world.daily_limits_usd.items():
        spent = facts.account_spend_usd.get(provider, 0.0)
        if limit > 0:
            yield Measurement(
                f"provider:{provider}",
                spent / limit,
                f"${spent:,.2f} of the ${limit:,.2f} that {provider} may cost today (UTC) are used by what was "
                "submitted, at its expected cost.",
                details={"spent_usd": spent, "limit_usd": limit},
            )
    for key in facts.keys:
        if key.budget_usd > 0:
            yield Measurement(
                f"key:{key.id}",
                key.used_usd / key.budget_usd,
                f"${key.used_usd:,.2f} of the ${key.budget_usd:,.2f} that a key of {key.owner} may cost this month "
                f"(UTC) are used: ${key.reserved_usd:,.2f} reserved, ${key.spent_usd:,.2f} spent, "
                f"${key.at_risk_usd:,.2f} at risk.",
                details={
                    "used_usd": key.used_usd,
                    "reserved_usd": key.reserved_usd,
                    "spent_usd": key.spent_usd,
                    "at_risk_usd": key.at_risk_usd,
                    "limit_usd": key.budget_usd,
                    "owner": key.owner,
                },
            )


def _uncertain(rule: Rule, facts: AlertFacts, world: World) -> Iterable[Measurement]:
    del rule, world
    for found in facts.uncertain:
        yield Measurement(
            found.provider_id,
            float(found.number),
            f"{found.number} submits to {found.provider_id} may or may not have been billed: somebody has to look.",
            details={"generation_ids": found.generation_ids},
        )


def _missing(rule: Rule, facts: AlertFacts, world: World) -> Iterable[Measurement]:
    del rule, world
    for found in facts.missing:
        yield Measurement(
            found.provider_id,
            float(found.number),
            f"{found.provider_id} does not know {found.number} of our tasks any more: they may have been billed.",
            details={"generation_ids": found.generation_ids},
        )


def _refused(rule: Rule, facts: AlertFacts, world: World) -> Iterable[Measurement]:
    del rule, world
    for provider, seconds in facts.refused_seconds.items():
        yield Measurement(
            provider,
            seconds,
            f"{provider} has refused our credentials for {_span(seconds)}: its tasks are not checked, and their "
            "deadlines stand still for a day at most.",
        )


def _down(prefix: str, what: str) -> Measure:
    def measure(rule: Rule, facts: AlertFacts, world: World) -> Iterable[Measurement]:
        del rule, facts
        for component, (seconds, why) in world.down.items():
            if component == prefix or (prefix.endswith(":") and component.startswith(prefix)):
                subject = component.removeprefix(prefix)
                named = what.format(subject=subject)
                yield Measurement(subject, seconds, f"{named} for {_span(seconds)}: {why}.", details={"why": why})

    return measure


MEASURES: Mapping[RuleType, Measure] = {
    RuleType.ERROR_RATE_HIGH: _error_rate,
    RuleType.TASK_TIMEOUT: _timeouts,
    RuleType.RETRIES_EXCEEDED: _retries,
    RuleType.QUEUE_STALLED: _queues,
    RuleType.BUDGET_SPENT: _budgets,
    RuleType.SUBMISSION_UNCERTAIN: _uncertain,
    RuleType.TASKS_MISSING: _missing,
    RuleType.CREDENTIALS_REFUSED: _refused,
    RuleType.API_DOWN: _down("adapter:", "{subject} has been down"),
    RuleType.DATABASE_DOWN: _down("database", "The database has not answered"),
    RuleType.STORAGE_DOWN: _down("s3", "Object storage has been down"),
    RuleType.SERVICE_DOWN: _down("service:", "The {subject} service has not been ready"),
}

_SHARES = {RuleType.ERROR_RATE_HIGH, RuleType.TASK_TIMEOUT, RuleType.BUDGET_SPENT}
_COUNTS = {RuleType.RETRIES_EXCEEDED, RuleType.SUBMISSION_UNCERTAIN, RuleType.TASKS_MISSING}


def shown(kind: RuleType | None, value: float) -> str:
    """A figure of a rule of this type with its unit; None: of an alert that no rule raised."""
    if kind is None or kind in _COUNTS:
        return f"{value:g}"
    return f"{value:.0%}" if kind in _SHARES else _span(value)


def holding(rule: Rule, facts: AlertFacts, world: World) -> list[Measurement]:
    """The subjects for which a rule's condition holds."""
    if not rule.enabled:
        return []
    return [
        found
        for found in MEASURES[rule.type](rule, facts, world)
        if found.value > rule.threshold
        and found.sample >= rule.minimum_sample
        and (not rule.subjects or found.subject in rule.subjects)
    ]
