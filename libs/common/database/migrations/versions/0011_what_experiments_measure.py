"""What is measured of experiments: the ledger, and what it is added up to."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _ledger()
    _users()
    _sums()
    _counts()
    _snapshots()


def _ledger() -> None:
    op.create_table(
        "experiment_ledger",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="In the order of writing."),
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("variant_id", sa.Text(), nullable=False, comment="The variant."),
        sa.Column("version", sa.Integer(), nullable=False, comment="The shares in force when it was allocated."),
        sa.Column(
            "unit",
            sa.Uuid(),
            nullable=True,
            comment="The user, as a hash of owner and user_id. NULL: the generation is a unit of its own.",
        ),
        sa.Column("owner", sa.Text(), server_default="", nullable=False, comment="Whose user it is."),
        sa.Column("user_id", sa.Text(), nullable=True, comment="The owner's own id of the user."),
        sa.Column("kind", sa.Text(), nullable=False, comment="assigned, ended or rated."),
        sa.Column("outcome", sa.Text(), nullable=True, comment="Of what ended: SUCCESS, FAILED or CANCELLED."),
        sa.Column("seconds", sa.Float(), nullable=True, comment="Of what ended: since it was accepted."),
        sa.Column("cost_usd", sa.Float(), nullable=True, comment="Of what ended: what it cost, in US dollars."),
        sa.Column("metric", sa.Text(), nullable=True, comment="Of what was rated: the metric."),
        sa.Column("value", sa.Float(), nullable=True, comment="And its value. NULL: it has none any more."),
        sa.Column("old_value", sa.Float(), nullable=True, comment="And the value before. NULL: there was none."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiment_ledger")),
        comment="What happened in experiments and was not added up yet.",
    )


def _users() -> None:
    op.create_table(
        "experiment_users",
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("unit", sa.Uuid(), nullable=False, comment="The user, as a hash of owner and user_id."),
        sa.Column("variant_id", sa.Text(), nullable=False, comment="The variant that the user came to first."),
        sa.Column("version", sa.Integer(), nullable=False, comment="The shares in force then."),
        sa.Column(
            "is_returning",
            sa.Boolean(),
            nullable=False,
            comment="Whether there were generations before the experiment.",
        ),
        sa.Column(
            "before",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Sum and count of each metric in the 28 days before it.",
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_users_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "unit", name=op.f("pk_experiment_users")),
        comment="The users that came to an experiment.",
    )
    op.create_table(
        "experiment_units",
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("unit", sa.Uuid(), nullable=False, comment="The user."),
        sa.Column("variant_id", sa.Text(), nullable=False, comment="The variant."),
        sa.Column("metric", sa.Text(), nullable=False, comment="The metric."),
        sa.Column(
            "m",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="Sum of its values, each over the probability of the variant.",
        ),
        sa.Column(
            "d",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="Count of its values, each over the probability of the variant.",
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_units_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "unit", "variant_id", "metric", name=op.f("pk_experiment_units")),
        comment="What was measured, user by user.",
    )


def _sums() -> None:
    op.create_table(
        "experiment_sums",
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("variant_id", sa.Text(), nullable=False, comment="The variant."),
        sa.Column("metric", sa.Text(), nullable=False, comment="The metric."),
        sa.Column(
            "samples", sa.BigInteger(), server_default="0", nullable=False, comment="Generations that it rests on."
        ),
        sa.Column("total", sa.Float(), server_default="0", nullable=False, comment="Sum of their values."),
        sa.Column(
            "units",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Users (generations, without a user) that they come from.",
        ),
        sa.Column(
            "m",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="Sum over units of m: their values, each over the probability of the variant.",
        ),
        sa.Column(
            "d",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="Sum over units of d: their counts, each over the probability of the variant.",
        ),
        sa.Column("mm", sa.Float(), server_default="0", nullable=False, comment="Sum over units of m²."),
        sa.Column("dd", sa.Float(), server_default="0", nullable=False, comment="Sum over units of d²."),
        sa.Column("md", sa.Float(), server_default="0", nullable=False, comment="Sum over units of m·d."),
        sa.Column(
            "a",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="Sum over units of a: values in the 28 days before the experiment.",
        ),
        sa.Column(
            "b",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="Sum over units of b: counts in the 28 days before the experiment.",
        ),
        sa.Column("aa", sa.Float(), server_default="0", nullable=False, comment="Sum over units of a²."),
        sa.Column("bb", sa.Float(), server_default="0", nullable=False, comment="Sum over units of b²."),
        sa.Column("ab", sa.Float(), server_default="0", nullable=False, comment="Sum over units of a·b."),
        sa.Column("ma", sa.Float(), server_default="0", nullable=False, comment="Sum over units of m·a."),
        sa.Column("mb", sa.Float(), server_default="0", nullable=False, comment="Sum over units of m·b."),
        sa.Column("da", sa.Float(), server_default="0", nullable=False, comment="Sum over units of d·a."),
        sa.Column("db", sa.Float(), server_default="0", nullable=False, comment="Sum over units of d·b."),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_sums_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "variant_id", "metric", name=op.f("pk_experiment_sums")),
        comment="What was measured, added up by variant: all that the analysis needs.",
    )


def _counts() -> None:
    op.create_table(
        "experiment_arrivals",
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("version", sa.Integer(), nullable=False, comment="The shares in force."),
        sa.Column("variant_id", sa.Text(), nullable=False, comment="The variant."),
        sa.Column(
            "units",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Users (generations, without a user) that came to the experiment, and first to this variant.",
        ),
        sa.Column(
            "generations",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Generations that were allocated.",
        ),
        sa.Column("ended", sa.BigInteger(), server_default="0", nullable=False, comment="Those that have ended."),
        sa.Column(
            "cancelled", sa.BigInteger(), server_default="0", nullable=False, comment="Those that were cancelled."
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_arrivals_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "version", "variant_id", name=op.f("pk_experiment_arrivals")),
        comment="What came to each variant, by the shares in force.",
    )
    op.create_table(
        "experiment_durations",
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("variant_id", sa.Text(), nullable=False, comment="The variant."),
        sa.Column("bucket", sa.SmallInteger(), nullable=False, comment="Up to 1.02 to this power, in milliseconds."),
        sa.Column(
            "samples", sa.BigInteger(), server_default="0", nullable=False, comment="Successes that took so long."
        ),
        sa.Column(
            "weight",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="Those, each over the probability of the variant.",
        ),
        sa.Column(
            "weight_squared", sa.Float(), server_default="0", nullable=False, comment="Sum of the squares of these."
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_experiment_durations_experiment_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "variant_id", "bucket", name=op.f("pk_experiment_durations")),
        comment="How long successes took, for percentiles (DDSketch).",
    )


def _snapshots() -> None:
    op.create_table(
        "experiment_snapshots",
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, comment="When."),
        sa.Column("variant_id", sa.Text(), nullable=False, comment="The variant."),
        sa.Column("metric", sa.Text(), nullable=False, comment="The metric."),
        sa.Column(
            "units",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Users (generations, without a user) that they come from.",
        ),
        sa.Column(
            "m",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="Sum over units of m: their values, each over the probability of the variant.",
        ),
        sa.Column(
            "d",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="Sum over units of d: their counts, each over the probability of the variant.",
        ),
        sa.Column("mm", sa.Float(), server_default="0", nullable=False, comment="Sum over units of m²."),
        sa.Column("dd", sa.Float(), server_default="0", nullable=False, comment="Sum over units of d²."),
        sa.Column("md", sa.Float(), server_default="0", nullable=False, comment="Sum over units of m·d."),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_experiment_snapshots_experiment_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "at", "variant_id", "metric", name=op.f("pk_experiment_snapshots")),
        comment="The sums at earlier times, at each twentieth more, for pictures over time.",
    )


def downgrade() -> None:
    for name in ("snapshots", "durations", "arrivals", "sums", "units", "users", "ledger"):
        op.drop_table(f"experiment_{name}")
