"""How the primary metric's difference from the control went over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.database.records_experiments import ExperimentRecord, Measured, SnapshotRecord, VariantRecord
from services.experiments.analysis.comparing import Compared
from services.experiments.analysis.judging import Evidence
from services.experiments.analysis.sequential import ALPHA


@dataclass(frozen=True, slots=True)
class Step:
    """A variant beside the control, by what was known at a time."""

    at: datetime
    variant: VariantRecord
    compared: Compared


def effects(experiment: ExperimentRecord, snapshots: Sequence[SnapshotRecord], measured: Measured) -> list[Step]:
    """All variants but the control at each time that was kept, the oldest first, with bounds that hold at any look."""
    found = []
    alpha = ALPHA / (len(experiment.variants) - 1)
    for at in sorted({snapshot.at for snapshot in snapshots}):
        sums = [snapshot.sums for snapshot in snapshots if snapshot.at == at]
        evidence = Evidence(experiment, Measured(sums, measured.arrivals, [], measured.allocations))
        for variant in experiment.variants[1:]:
            compared = evidence.compare(experiment.control, variant, experiment.primary.name, alpha=alpha)
            if compared is not None:
                found.append(Step(at, variant, compared))
    return found
