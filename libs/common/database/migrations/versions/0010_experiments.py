"""What an experiment is, the generations that take part, and what users think of them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _experiments()
    _variants()
    _metrics_and_allocations()
    _generations()
    _ratings()


def _experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.Text(), nullable=False, comment="exp_ and a ULID; sorts by the time it was made."),
        sa.Column("name", sa.Text(), nullable=False, comment="For people."),
        sa.Column("description", sa.Text(), server_default="", nullable=False, comment="What it is about."),
        sa.Column("hypothesis", sa.Text(), server_default="", nullable=False, comment="What is expected and why."),
        sa.Column("status", sa.Text(), nullable=False, comment="DRAFT, RUNNING, PAUSED or COMPLETED."),
        sa.Column(
            "layer",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Those of one exclude each other. Empty: none.",
        ),
        sa.Column(
            "layer_ranges",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
            comment="Which of its layer's 10,000 buckets are its own, once it ran: from (included), to (excluded), …",
        ),
        sa.Column(
            "target_models",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Requests that name one of these models take part.",
        ),
        sa.Column(
            "target_api_keys",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Only requests of these API keys. Empty: of all.",
        ),
        sa.Column(
            "target_labels",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Only requests that carry all of these labels.",
        ),
        sa.Column(
            "traffic_buckets",
            sa.Integer(),
            nullable=False,
            comment="Its share of the users, in hundredths of a percent.",
        ),
        sa.Column(
            "salt", sa.Text(), nullable=False, comment="Goes into the hash of a user, so that no two experiments agree."
        ),
        sa.Column("mode", sa.Text(), nullable=False, comment="FIXED, THOMPSON or TOP_TWO: how shares come about."),
        sa.Column(
            "floor_buckets", sa.Integer(), nullable=False, comment="What each variant gets at least while shares adapt."
        ),
        sa.Column(
            "buckets",
            sa.LargeBinary(),
            nullable=False,
            comment="The position of the variant of each of 10,000 buckets.",
        ),
        sa.Column(
            "version", sa.Integer(), server_default="1", nullable=False, comment="Counts the changes of the shares."
        ),
        sa.Column(
            "minimum_detectable_effect",
            sa.Float(),
            nullable=True,
            comment="The smallest difference worth finding, of the primary metric.",
        ),
        sa.Column(
            "plan",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="How many samples it takes, and for how long.",
        ),
        sa.Column(
            "factorial",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="What its variants are made of, where they are made of factors.",
        ),
        sa.Column("stop_at", sa.DateTime(timezone=True), nullable=True, comment="When it ends by itself."),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was planned.",
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True, comment="When it first ran."),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="When it ended."),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it last changed.",
        ),
        sa.CheckConstraint("(ended_at IS NOT NULL) = (status = 'COMPLETED')", name=op.f("ck_experiments_ended")),
        sa.CheckConstraint("mode IN ('FIXED', 'THOMPSON', 'TOP_TWO')", name=op.f("ck_experiments_mode")),
        sa.CheckConstraint(
            "status IN ('DRAFT', 'COMPLETED') OR started_at IS NOT NULL", name=op.f("ck_experiments_started")
        ),
        sa.CheckConstraint("status IN ('DRAFT', 'RUNNING', 'PAUSED', 'COMPLETED')", name=op.f("ck_experiments_status")),
        sa.CheckConstraint("octet_length(buckets) = 10000", name=op.f("ck_experiments_buckets")),
        sa.CheckConstraint("traffic_buckets BETWEEN 1 AND 10000", name=op.f("ck_experiments_traffic_buckets")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        comment="One row for each experiment.",
    )
    op.create_index(
        "ix_experiments_live",
        "experiments",
        ["status"],
        unique=False,
        postgresql_where=sa.text("status IN ('RUNNING', 'PAUSED')"),
    )


def _variants() -> None:
    op.create_table(
        "experiment_variants",
        sa.Column("id", sa.Text(), nullable=False, comment="var_ and a ULID."),
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("position", sa.SmallInteger(), nullable=False, comment="0 is the control."),
        sa.Column("name", sa.Text(), nullable=False, comment="For people."),
        sa.Column("model_identifier", sa.Text(), nullable=False, comment="The model, as the catalog names it."),
        sa.Column(
            "prompt",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Replaces the prompt; {prompt} stands for it.",
        ),
        sa.Column(
            "parameters",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Replace the request's parameters of the same name.",
        ),
        sa.Column(
            "levels",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The level of each factor, where it is made of factors.",
        ),
        sa.Column(
            "paused_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was taken out because it broke a guardrail.",
        ),
        sa.Column("pause_reason", sa.Text(), nullable=True, comment="Why it was."),
        sa.Column("alerted_at", sa.DateTime(timezone=True), nullable=True, comment="When people were told of that."),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_variants_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiment_variants")),
        comment="The ways of making it that an experiment compares.",
    )
    op.create_index(
        "uq_experiment_variants_position", "experiment_variants", ["experiment_id", "position"], unique=True
    )


def _metrics_and_allocations() -> None:
    op.create_table(
        "experiment_metrics",
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("position", sa.SmallInteger(), nullable=False, comment="Its place in the list."),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="success_rate, avg_cost, … or a number in a rating's context."
        ),
        sa.Column("role", sa.Text(), nullable=False, comment="PRIMARY, SECONDARY or GUARDRAIL."),
        sa.Column("goal", sa.Text(), nullable=False, comment="MAXIMIZE or MINIMIZE."),
        sa.Column(
            "margin",
            sa.Float(),
            nullable=False,
            comment="Of a guardrail: how much worse than the control is still well.",
        ),
        sa.CheckConstraint("goal IN ('MAXIMIZE', 'MINIMIZE')", name=op.f("ck_experiment_metrics_goal")),
        sa.CheckConstraint("role IN ('PRIMARY', 'SECONDARY', 'GUARDRAIL')", name=op.f("ck_experiment_metrics_role")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_metrics_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "position", name=op.f("pk_experiment_metrics")),
        comment="What an experiment measures.",
    )
    op.create_table(
        "experiment_allocations",
        sa.Column("experiment_id", sa.Text(), nullable=False, comment="The experiment."),
        sa.Column("version", sa.Integer(), nullable=False, comment="Generations say under which one they came."),
        sa.Column(
            "weights",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Buckets of each variant, by position; 10,000 in all.",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="planned, operator, bandit or guardrail."),
        sa.Column(
            "began_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Since when it holds.",
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_experiment_allocations_experiment_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "version", name=op.f("pk_experiment_allocations")),
        comment="The history of the shares.",
    )


def _generations() -> None:
    op.add_column(
        "generation_requests",
        sa.Column(
            "requested_model_identifier",
            sa.Text(),
            nullable=True,
            comment="The model asked for, where an experiment takes another.",
        ),
    )
    op.add_column(
        "generation_requests",
        sa.Column(
            "experiment_version",
            sa.Integer(),
            nullable=True,
            comment="The experiment's shares in force when it was allocated.",
        ),
    )
    op.create_index(
        "ix_generation_requests_user",
        "generation_requests",
        ["owner", "user_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("user_id IS NOT NULL"),
    )
    op.create_check_constraint(
        op.f("ck_generation_requests_allocated_whole"),
        "generation_requests",
        "(experiment_id IS NULL) = (variant_id IS NULL) AND (variant_id IS NULL) = (experiment_version IS NULL)",
    )


def _ratings() -> None:
    op.create_table(
        "generation_ratings",
        sa.Column("generation_id", sa.Text(), nullable=False, comment="The generation."),
        sa.Column("rating", sa.SmallInteger(), nullable=False, comment="1 (worst) to 5 (best)."),
        sa.Column("feedback", sa.Text(), server_default="", nullable=False, comment="Words."),
        sa.Column(
            "context",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="Free numbers and words for analysis.",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was first rated.",
        ),
        sa.Column(
            "rated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was last rated.",
        ),
        sa.CheckConstraint("rating BETWEEN 1 AND 5", name=op.f("ck_generation_ratings_rating")),
        sa.ForeignKeyConstraint(
            ["generation_id"],
            ["generation_requests.id"],
            name=op.f("fk_generation_ratings_generation_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("generation_id", name=op.f("pk_generation_ratings")),
        comment="Users' opinions of generations, one each.",
    )


def downgrade() -> None:
    op.drop_table("generation_ratings")
    op.drop_constraint(op.f("ck_generation_requests_allocated_whole"), "generation_requests")
    op.drop_index("ix_generation_requests_user", table_name="generation_requests")
    op.drop_column("generation_requests", "experiment_version")
    op.drop_column("generation_requests", "requested_model_identifier")
    for table in ("experiment_allocations", "experiment_metrics", "experiment_variants", "experiments"):
        op.drop_table(table)
