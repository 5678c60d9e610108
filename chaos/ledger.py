"""The sums of a run as JSON, for programs that compare runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chaos.audit import LAWS
from chaos.money import Moment
from chaos.run import Outcome


def write_ledger(outcome: Outcome, path: Path) -> None:
    """Write the ledger of a run to a file.

    It holds the `seed`; by law of `LAWS` how often it was broken (`laws`); how many tickets clients had (`tickets`);
    the statuses in which generations ended, with their counts (`statuses`), and the codes of those that failed
    (`failed`); how many submissions there were (`submissions`) and how many bills (`bills`); and by moment the sums in
    micro-dollars (`money`).

    Raises:
        OSError: the file cannot be written.
    """
    report = outcome.report
    ledger = {
        "seed": outcome.schedule.seed,
        "laws": {name: len(getattr(report, name)) for name in LAWS},
        "tickets": len(outcome.load.tickets),
        "statuses": _statuses(outcome),
        "failed": dict(sorted(report.failed.items())),
        "submissions": report.attempts,
        "bills": report.bills,
        "money": {moment.value: _sums(outcome, moment) for moment in (Moment.SETTLED, Moment.RESOLVED)},
    }
    path.write_text(json.dumps(ledger, indent=1) + "\n", encoding="utf-8")


def _statuses(outcome: Outcome) -> dict[str, int]:
    """How many generations ended in each status; those that have not ended are STUCK."""
    report = outcome.report
    found = {
        "SUCCESS": report.succeeded,
        "FAILED": sum(report.failed.values()),
        "CANCELLED": report.cancelled,
        "STUCK": len(report.stuck),
    }
    return {status: count for status, count in found.items() if count}


def _sums(outcome: Outcome, moment: Moment) -> dict[str, Any]:
    found = outcome.audits.last[moment]
    return {
        "billed_micros": outcome.audits.owed[moment],
        "spent_micros": found.spent,
        "at_risk_micros": found.at_risk,
        "reserved_micros": found.reserved,
    }
