"""The tables of experiments: what was planned, who got what, and what came of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.database.schema.metadata import metadata, one_of, time
from libs.common.database.states import AllocationMode, ExperimentStatus, MetricGoal, MetricRole


def _experiment(*, key: bool = False) -> Column[str]:
    return Column(
        "experiment_id",
        Text,
        ForeignKey("experiments.id", ondelete="CASCADE"),
        primary_key=key,
        nullable=False,
        comment="The experiment.",
    )


def _variant(*, key: bool = True) -> Column[str]:
    return Column("variant_id", Text, primary_key=key, nullable=False, comment="The variant.")


def _sum(name: str, comment: str) -> Column[float]:
    return Column(name, Float, nullable=False, server_default="0", comment=comment)


def _count(name: str, comment: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0", comment=comment)


def _moments() -> list[Column[Any]]:
    """What a mean and its variance need: the sums of m and d over units, of their squares and their product."""
    return [
        _count("units", "Users (generations, without a user) that they come from."),
        _sum("m", "Sum over units of m: their values, each over the probability of the variant."),
        _sum("d", "Sum over units of d: their counts, each over the probability of the variant."),
        _sum("mm", "Sum over units of m²."),
        _sum("dd", "Sum over units of d²."),
        _sum("md", "Sum over units of m·d."),
    ]


experiments = Table(
    "experiments",
    metadata,
    Column("id", Text, primary_key=True, comment="exp_ and a ULID; sorts by the time it was made."),
    Column("name", Text, nullable=False, comment="For people."),
    Column("description", Text, nullable=False, server_default="", comment="What it is about."),
    Column("hypothesis", Text, nullable=False, server_default="", comment="What is expected and why."),
    Column("status", Text, nullable=False, comment="DRAFT, RUNNING, PAUSED or COMPLETED."),
    Column("layer", Text, nullable=False, server_default="", comment="Those of one exclude each other. Empty: none."),
    Column(
        "layer_ranges",
        JSONB,
        nullable=False,
        server_default="[]",
        comment="Which of its layer's 10,000 buckets are its own, once it ran: from (included), to (excluded), …",
    ),
    Column("target_models", JSONB, nullable=False, comment="Requests that name one of these models take part."),
    Column("target_api_keys", JSONB, nullable=False, comment="Only requests of these API keys. Empty: of all."),
    Column("target_labels", JSONB, nullable=False, comment="Only requests that carry all of these labels."),
    Column("traffic_buckets", Integer, nullable=False, comment="Its share of the users, in hundredths of a percent."),
    Column("salt", Text, nullable=False, comment="Goes into the hash of a user, so that no two experiments agree."),
    Column("mode", Text, nullable=False, comment="FIXED, THOMPSON or TOP_TWO: how shares come about."),
    Column("floor_buckets", Integer, nullable=False, comment="What each variant gets at least while shares adapt."),
    Column("buckets", LargeBinary, nullable=False, comment="The position of the variant of each of 10,000 buckets."),
    Column("version", Integer, nullable=False, server_default="1", comment="Counts the changes of the shares."),
    Column("minimum_detectable_effect", Float, comment="The smallest difference worth finding, of the primary metric."),
    Column("plan", JSONB, nullable=False, comment="How many samples it takes, and for how long."),
    Column("factorial", JSONB, comment="What its variants are made of, where they are made of factors."),
    time("stop_at", "When it ends by itself."),
    time("created_at", "When it was planned.", required=True, now=True),
    time("started_at", "When it first ran."),
    time("ended_at", "When it ended."),
    time("updated_at", "When it last changed.", required=True, now=True),
    CheckConstraint(one_of("status", ExperimentStatus), name="status"),
    CheckConstraint(one_of("mode", AllocationMode), name="mode"),
    CheckConstraint("traffic_buckets BETWEEN 1 AND 10000", name="traffic_buckets"),
    CheckConstraint("octet_length(buckets) = 10000", name="buckets"),
    CheckConstraint("(ended_at IS NOT NULL) = (status = 'COMPLETED')", name="ended"),
    CheckConstraint("status IN ('DRAFT', 'COMPLETED') OR started_at IS NOT NULL", name="started"),
    comment="One row for each experiment.",
)
# What gateways are told of, and what may end or adapt.
Index(
    "ix_experiments_live",
    experiments.c.status,
    postgresql_where=text("status IN ('RUNNING', 'PAUSED')"),
)

experiment_variants = Table(
    "experiment_variants",
    metadata,
    Column("id", Text, primary_key=True, comment="var_ and a ULID."),
    _experiment(),
    Column("position", SmallInteger, nullable=False, comment="0 is the control."),
    Column("name", Text, nullable=False, comment="For people."),
    Column("model_identifier", Text, nullable=False, comment="The model, as the catalog names it."),
    Column("prompt", Text, nullable=False, server_default="", comment="Replaces the prompt; {prompt} stands for it."),
    Column("parameters", JSONB, nullable=False, comment="Replace the request's parameters of the same name."),
    Column("levels", JSONB, nullable=False, comment="The level of each factor, where it is made of factors."),
    time("paused_at", "When it was taken out because it broke a guardrail."),
    Column("pause_reason", Text, comment="Why it was."),
    time("alerted_at", "When people were told of that."),
    comment="The ways of making it that an experiment compares.",
)
Index(
    "uq_experiment_variants_position", experiment_variants.c.experiment_id, experiment_variants.c.position, unique=True
)

experiment_metrics = Table(
    "experiment_metrics",
    metadata,
    _experiment(key=True),
    Column("position", SmallInteger, primary_key=True, comment="Its place in the list."),
    Column("name", Text, nullable=False, comment="success_rate, avg_cost, … or a number in a rating's context."),
    Column("role", Text, nullable=False, comment="PRIMARY, SECONDARY or GUARDRAIL."),
    Column("goal", Text, nullable=False, comment="MAXIMIZE or MINIMIZE."),
    Column("margin", Float, nullable=False, comment="Of a guardrail: how much worse than the control is still well."),
    CheckConstraint(one_of("role", MetricRole), name="role"),
    CheckConstraint(one_of("goal", MetricGoal), name="goal"),
    comment="What an experiment measures.",
)

experiment_allocations = Table(
    "experiment_allocations",
    metadata,
    _experiment(key=True),
    Column("version", Integer, primary_key=True, comment="Generations say under which one they came."),
    Column("weights", JSONB, nullable=False, comment="Buckets of each variant, by position; 10,000 in all."),
    Column("reason", Text, nullable=False, comment="planned, operator, bandit or guardrail."),
    time("began_at", "Since when it holds.", required=True, now=True),
    comment="The history of the shares.",
)

experiment_ledger = Table(
    "experiment_ledger",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True, comment="In the order of writing."),
    Column("experiment_id", Text, nullable=False, comment="The experiment."),
    Column("variant_id", Text, nullable=False, comment="The variant."),
    Column("version", Integer, nullable=False, comment="The shares in force when it was allocated."),
    Column(
        "unit", Uuid, comment="The user, as a hash of owner and user_id. NULL: the generation is a unit of its own."
    ),
    Column("owner", Text, nullable=False, server_default="", comment="Whose user it is."),
    Column("user_id", Text, comment="The owner's own id of the user."),
    Column("kind", Text, nullable=False, comment="assigned, ended, reopened or rated."),
    Column("outcome", Text, comment="Of what ended: SUCCESS, FAILED or CANCELLED."),
    Column("seconds", Float, comment="Of what ended: since it was accepted."),
    Column("cost_usd", Float, comment="Of what ended: what it cost, in US dollars."),
    Column("metric", Text, comment="Of what was rated: the metric."),
    Column("value", Float, comment="And its value. NULL: it has none any more."),
    Column("old_value", Float, comment="And the value before. NULL: there was none."),
    comment="What happened in experiments and was not added up yet.",
)

experiment_users = Table(
    "experiment_users",
    metadata,
    _experiment(key=True),
    Column("unit", Uuid, primary_key=True, comment="The user, as a hash of owner and user_id."),
    Column("variant_id", Text, nullable=False, comment="The variant that the user came to first."),
    Column("version", Integer, nullable=False, comment="The shares in force then."),
    Column("is_returning", Boolean, nullable=False, comment="Whether there were generations before the experiment."),
    Column("before", JSONB, nullable=False, comment="Sum and count of each metric in the 28 days before it."),
    comment="The users that came to an experiment.",
)

experiment_units = Table(
    "experiment_units",
    metadata,
    _experiment(key=True),
    Column("unit", Uuid, primary_key=True, comment="The user."),
    _variant(),
    Column("metric", Text, primary_key=True, comment="The metric."),
    _sum("m", "Sum of its values, each over the probability of the variant."),
    _sum("d", "Count of its values, each over the probability of the variant."),
    comment="What was measured, user by user.",
)

experiment_sums = Table(
    "experiment_sums",
    metadata,
    _experiment(key=True),
    _variant(),
    Column("metric", Text, primary_key=True, comment="The metric."),
    _count("samples", "Generations that it rests on."),
    _sum("total", "Sum of their values."),
    *_moments(),
    _sum("a", "Sum over units of a: values in the 28 days before the experiment."),
    _sum("b", "Sum over units of b: counts in the 28 days before the experiment."),
    _sum("aa", "Sum over units of a²."),
    _sum("bb", "Sum over units of b²."),
    _sum("ab", "Sum over units of a·b."),
    _sum("ma", "Sum over units of m·a."),
    _sum("mb", "Sum over units of m·b."),
    _sum("da", "Sum over units of d·a."),
    _sum("db", "Sum over units of d·b."),
    comment="What was measured, added up by variant: all that the analysis needs.",
)

experiment_arrivals = Table(
    "experiment_arrivals",
    metadata,
    _experiment(key=True),
    Column("version", Integer, primary_key=True, comment="The shares in force."),
    _variant(),
    _count("units", "Users (generations, without a user) that came to the experiment, and first to this variant."),
    _count("generations", "Generations that were allocated."),
    _count("ended", "Those that have ended."),
    _count("cancelled", "Those that were cancelled."),
    comment="What came to each variant, by the shares in force.",
)

experiment_durations = Table(
    "experiment_durations",
    metadata,
    _experiment(key=True),
    _variant(),
    Column("bucket", SmallInteger, primary_key=True, comment="Up to 1.02 to this power, in milliseconds."),
    _count("samples", "Successes that took so long."),
    _sum("weight", "Those, each over the probability of the variant."),
    _sum("weight_squared", "Sum of the squares of these."),
    comment="How long successes took, for percentiles (DDSketch).",
)

experiment_snapshots = Table(
    "experiment_snapshots",
    metadata,
    _experiment(key=True),
    time("at", "When.", key=True),
    _variant(),
    Column("metric", Text, primary_key=True, comment="The metric."),
    *_moments(),
    comment="The sums at earlier times, at each twentieth more, for pictures over time.",
)

generation_ratings = Table(
    "generation_ratings",
    metadata,
    Column(
        "generation_id",
        Text,
        primary_key=True,
        comment="The generation.",
    ),
    Column("rating", SmallInteger, nullable=False, comment="1 (worst) to 5 (best)."),
    Column("feedback", Text, nullable=False, server_default="", comment="Words."),
    Column("context", JSONB, nullable=False, server_default="{}", comment="Free numbers and words for analysis."),
    time("created_at", "When it was first rated.", required=True, now=True),
    time("rated_at", "When it was last rated.", required=True, now=True),
    CheckConstraint("rating BETWEEN 1 AND 5", name="rating"),
    comment="Users' opinions of generations, one each.",
)
