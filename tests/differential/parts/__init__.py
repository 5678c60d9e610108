"""The parts of a recording, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.differential.parts import alerts, chaos, errors, fairness, machines, sequence
from tests.differential.recording import Part

PARTS: Mapping[str, Part] = {
    part.name: part
    for part in (
        errors.PART,
        alerts.PART,
        fairness.PART,
        machines.INTERLEAVING,
        machines.BATCHES,
        machines.MONEY,
        sequence.PART,
        chaos.PART,
    )
}
