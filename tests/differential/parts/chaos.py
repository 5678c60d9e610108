"""Three short runs of chaos with fixed seeds, reduced to what holds whatever the timing of a run is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.differential.recording import Part, Row, Rows, Tell
from tests.suites import ROOT

_SEEDS = (3, 7, 24)
_GENERATIONS, _SECONDS = 40, 10
_LIMIT_SECONDS = 600
_END_STATUSES = frozenset({"SUCCESS", "FAILED", "CANCELLED"})


def record(tell: Tell) -> Rows:
    """Record a row for each seed."""
    found: Rows = {}
    for seed in _SEEDS:
        found[f"seed {seed}"] = _reduced(_ledger(seed))
        tell(f"seed {seed}: {found[f'seed {seed}']}")
    return found


def _ledger(seed: int) -> dict[str, Any]:
    """Run chaos and return its ledger.

    Raises:
        RuntimeError: the run ended without a ledger.
    """
    with TemporaryDirectory(prefix="darkroom-chaos-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "ledger.json"
        options = {"seed": seed, "generations": _GENERATIONS, "seconds": _SECONDS, "ledger": path}
        command = [sys.executable, "-m", "chaos", *(word for k, v in options.items() for word in (f"--{k}", str(v)))]
        environment = {**os.environ, "DARKROOM_SANDBOX_FOLDER": folder, "GRPC_VERBOSITY": "ERROR"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
        )
        if not path.exists():
            raise RuntimeError(f"Chaos with seed {seed} ended without a ledger: {(done.stdout + done.stderr)[-1_000:]}")
        ledger: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ledger


def _reduced(ledger: dict[str, Any]) -> Row:
    """What does not depend on timing: broken laws, sums of money that must be equal, words of ends."""
    money = ledger["money"]["resolved"]
    statuses = set(ledger["statuses"])
    return {
        "broken_laws": ledger["laws"],
        "all_single_generations_accepted": ledger["tickets"] >= _GENERATIONS,
        "spent_equals_billed": money["spent_micros"] == money["billed_micros"],
        "money_was_billed": money["billed_micros"] > 0,
        "reserved_micros": money["reserved_micros"],
        "at_risk_micros": money["at_risk_micros"],
        "unknown_end_statuses": sorted(statuses - _END_STATUSES),
        "some_succeeded": "SUCCESS" in statuses,
        "bills_without_a_submission": max(0, ledger["bills"] - ledger["submissions"]),
    }


PART = Part("chaos", record)
