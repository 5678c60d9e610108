"""What the stores of experiments take and give."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from libs.common.database.records import Json
from libs.common.database.states import AllocationMode, ExperimentStatus, MetricGoal, MetricRole

Reason = Literal["planned", "operator", "bandit", "guardrail"]
Ranges = list[list[int]]
RATING_METRIC = "user_rating"
MEASURED_METRICS = frozenset({"success_rate", "avg_duration", "avg_cost", "p95_duration", RATING_METRIC})
"""What is measured of every generation; all other metrics are numbers in a rating's context."""
DURATION_GROWTH = 1.02
"""How much longer each bucket of durations is than the one before."""


@dataclass(frozen=True, slots=True)
class VariantRecord:
    """One way of making it, as its row tells it."""

    id: str
    name: str
    model_identifier: str
    prompt: str = ""
    parameters: Json = field(default_factory=dict)
    levels: dict[str, str] = field(default_factory=dict)
    paused_at: datetime | None = None
    pause_reason: str | None = None


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """What is measured. `margin` of a guardrail: how much worse than the control is still well."""

    name: str
    role: MetricRole
    goal: MetricGoal
    margin: float = 0.0

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.goal is MetricGoal.MAXIMIZE else -1


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """How many samples it takes, and for how long. 0: unknown; `baseline` None: nothing was made before."""

    samples: int = 0
    fixed_horizon_samples: int = 0
    days: float = 0.0
    samples_per_day: float = 0.0
    baseline: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """Which requests take part; `traffic_buckets`: of how many of 10,000 users."""

    model_identifiers: list[str]
    api_key_ids: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    traffic_buckets: int = 10_000


@dataclass(frozen=True, slots=True)
class NewExperiment:
    """An experiment about to become rows. `weights`: buckets of each variant; `buckets`: the variant of each bucket."""

    id: str
    name: str
    description: str
    hypothesis: str
    layer: str
    target: TargetRecord
    salt: str
    mode: AllocationMode
    floor_buckets: int
    weights: list[int]
    buckets: bytes
    variants: list[VariantRecord]
    metrics: list[MetricRecord]
    minimum_detectable_effect: float | None
    plan: PlanRecord
    factorial: Json | None
    stop_at: datetime | None


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """An experiment as its rows tell it."""

    id: str
    name: str
    description: str
    hypothesis: str
    status: ExperimentStatus
    layer: str
    layer_ranges: Ranges
    target: TargetRecord
    salt: str
    mode: AllocationMode
    floor_buckets: int
    buckets: bytes
    version: int
    minimum_detectable_effect: float | None
    plan: PlanRecord
    factorial: Json | None
    stop_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    updated_at: datetime
    variants: list[VariantRecord]
    metrics: list[MetricRecord]

    @property
    def weights(self) -> list[int]:
        """Buckets of each variant."""
        return [self.buckets.count(position) for position in range(len(self.variants))]

    @property
    def primary(self) -> MetricRecord:
        """The metric that decides."""
        return next(metric for metric in self.metrics if metric.role is MetricRole.PRIMARY)

    @property
    def control(self) -> VariantRecord:
        """What the others are compared with."""
        return self.variants[0]


@dataclass(frozen=True, slots=True)
class NewAllocation:
    """Shares to be taken over, guarded by the version that they were reckoned from."""

    experiment_id: str
    from_version: int
    weights: list[int]
    buckets: bytes
    reason: Reason


@dataclass(frozen=True, slots=True)
class AllocationRecord:
    """Shares of an earlier time, or of now."""

    version: int
    weights: list[int]
    reason: Reason
    began_at: datetime


@dataclass(frozen=True, slots=True)
class SumsRecord:
    """What was measured of a metric in a variant, added up over units (users, or generations without one).

    m and d are a unit's sum and count of values, each over the probability of its variant; a and b the sum and count of
    the 28 days before the experiment. `mm` is the sum of m², `md` that of m·d, and so on.
    """

    variant_id: str
    metric: str
    samples: int = 0
    total: float = 0.0
    units: int = 0
    m: float = 0.0
    d: float = 0.0
    mm: float = 0.0
    dd: float = 0.0
    md: float = 0.0
    a: float = 0.0
    b: float = 0.0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    ma: float = 0.0
    mb: float = 0.0
    da: float = 0.0
    db: float = 0.0


@dataclass(frozen=True, slots=True)
class ArrivalsRecord:
    """What came to a variant under one version of the shares."""

    version: int
    variant_id: str
    units: int
    generations: int
    ended: int
    cancelled: int


@dataclass(frozen=True, slots=True)
class DurationRecord:
    """Successes of a variant that took up to 1.02 to the power of `bucket` milliseconds."""

    variant_id: str
    bucket: int
    samples: int
    weight: float
    weight_squared: float


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """Sums of an earlier time."""

    at: datetime
    sums: SumsRecord


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """Sums of a metric in a variant, of one segment."""

    segment: str
    sums: SumsRecord


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured of an experiment."""

    sums: list[SumsRecord]
    arrivals: list[ArrivalsRecord]
    durations: list[DurationRecord]
    allocations: list[AllocationRecord]


@dataclass(frozen=True, slots=True)
class NewRating:
    """A user's opinion of a generation's results."""

    generation_id: str
    rating: int
    feedback: str
    context: Json


@dataclass(frozen=True, slots=True)
class PauseNotice:
    """A variant that was taken out of an experiment, and that nobody was told of yet."""

    variant_id: str
    variant_name: str
    experiment_id: str
    experiment_name: str
    reason: str
