"""The table of generations. Every column carries its comment into the database, where analysts read it."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.database.schema.metadata import metadata, one_of, time
from libs.common.database.states import State

generation_requests = Table(
    "generation_requests",
    metadata,
    Column("id", Text, primary_key=True, comment="gen_ and a ULID; sorts by the time it was made."),
    Column("state", Text, nullable=False, comment="Where it stands; see the transition table."),
    Column("model_identifier", Text, nullable=False, comment="The model, as the catalog names it."),
    Column(
        "provider_id", Text, nullable=False, comment="The provider account that carries it, as the catalog names it."
    ),
    Column("media_type", Text, nullable=False, comment="image or video."),
    Column("prompt", Text, nullable=False, comment="What to make, as handed in."),
    Column("input_images", JSONB, nullable=False, server_default="[]", comment="http(s) or data URLs, as handed in."),
    Column("preprocess", JSONB, comment="What the caller wants to become of input images: some fields of a config."),
    Column("number_of_outputs", SmallInteger, nullable=False, comment="How many outputs were asked for, 1 to 10."),
    Column(
        "parameters", JSONB, nullable=False, server_default="{}", comment="The model's parameters, defaults applied."
    ),
    Column("priority", SmallInteger, nullable=False, server_default="5", comment="0 (last) to 9 (first)."),
    Column(
        "when_uncertain", Text, nullable=False, comment="fail or resubmit: what to do when a submit's reply is lost."
    ),
    Column("user_id", Text, comment="The caller's own id of the person behind the request."),
    Column("labels", JSONB, nullable=False, server_default="{}", comment="The caller's key-value pairs."),
    Column("request_id", Text, nullable=False, comment="The id that all log lines about it carry."),
    Column("trace_parent", Text, comment="The span that accepted it (W3C Trace Context), where traces are kept."),
    Column(
        "api_key_id",
        Text,
        nullable=False,
        server_default="",
        comment="The API key that handed it in; keys take turns. Empty: none was asked for.",
    ),
    time(
        "turn_at",
        "The order of those that wait: released_at less a minute for each step of priority.",
        required=True,
        now=True,
    ),
    Column(
        "expected_cost_usd",
        Float,
        nullable=False,
        server_default="0",
        comment="What it will cost by the catalog, in US dollars; counts against the account's daily spend.",
    ),
    Column(
        "fallbacks",
        JSONB,
        nullable=False,
        server_default="[]",
        comment="Models still to be tried in order: model_identifier, provider_id, parameters, expected_cost_usd.",
    ),
    Column(
        "fallback_path",
        JSONB,
        nullable=False,
        server_default="[]",
        comment="The models that were left, in order: model_identifier, provider_id, code, left_at.",
    ),
    Column("attempts", Integer, nullable=False, server_default="0", comment="How often a submit was sent."),
    Column(
        "attempts_elsewhere",
        Integer,
        nullable=False,
        server_default="0",
        comment="How many of the attempts went to models that were left since.",
    ),
    Column(
        "store_attempts",
        Integer,
        nullable=False,
        server_default="0",
        comment="How often storing its results was tried.",
    ),
    time("next_attempt_at", "Not to be claimed before: after a retryable failure.", required=True, now=True),
    Column("lease_owner", Text, comment="The process that works on it, while it is claimed."),
    time("lease_until", "When the claim ends unless it is renewed."),
    Column(
        "lease_token",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="Fencing token: grows with each claim; a write with an older one is dropped.",
    ),
    Column("provider_task_id", Text, comment="The provider's own id of the task, once accepted."),
    Column("sources", JSONB, comment="While STORING: where the outputs are to be fetched from."),
    Column("outputs", JSONB, comment="The files made: type, object_key or url, content_type, size_bytes, sha256."),
    Column(
        "error", JSONB, comment="Why it failed, or what its last attempt said: code, message, details, is_retryable."
    ),
    Column("cost_usd", Float, comment="What it cost by the catalog or the provider's bill, in US dollars."),
    Column(
        "continues_id",
        Text,
        comment="The generation whose uncertain submit an operator resolved with this one. It may be forgotten by now.",
    ),
    Column("owner", Text, nullable=False, server_default="", comment="The owner of that key: who may see it."),
    Column("batch_id", Text, comment="The batch it belongs to."),
    Column("batch_index", Integer, comment="Its place in the batch, 0 for the first; what continues it has the same."),
    Column("batch_ref", Text, comment="Its own name in the batch, by which others of it depend on it."),
    Column(
        "waits_for",
        Integer,
        nullable=False,
        server_default="0",
        comment="While HELD: how many others of the batch must end before it may be released.",
    ),
    Column(
        "images_from",
        JSONB,
        nullable=False,
        server_default="[]",
        comment="Input images that others of the batch make, after its own: from (their batch_ref), output.",
    ),
    Column("experiment_id", Text, comment="The experiment it takes part in."),
    Column("variant_id", Text, comment="The variant of the experiment."),
    Column("requested_model_identifier", Text, comment="The model asked for, where an experiment takes another."),
    Column("experiment_version", Integer, comment="The experiment's shares in force when it was allocated."),
    Column(
        "request_hash",
        LargeBinary,
        comment="The first 16 bytes of the SHA-256 of what was asked for: identical requests have the same.",
    ),
    Column(
        "is_late",
        Boolean,
        nullable=False,
        server_default="false",
        comment="Whether it holds the late result of the generation that it continues, which had timed out.",
    ),
    Column("rerun_of_id", Text, comment="The generation that was run again with this one."),
    Column("reused_from_id", Text, comment="The generation whose result it took without a bill."),
    Column("callback_url", Text, comment="Where changes of its status are delivered to."),
    Column(
        "reserved_usd",
        Numeric(14, 6),
        nullable=False,
        server_default="0",
        comment="What it holds of its key's monthly budget until it ends, in US dollars.",
    ),
    time("deleted_at", "When its owner deleted it; nobody is shown it since."),
    time("cancel_requested_at", "When somebody asked for it to be cancelled."),
    time("created_at", "When it was accepted.", required=True, now=True),
    time(
        "released_at",
        "Since when it waits for its provider: when it was accepted, or released from its batch.",
        required=True,
        now=True,
    ),
    time("updated_at", "When it last changed its state.", required=True, now=True),
    time("submitted_at", "When a submit was first recorded."),
    time("ended_at", "When it reached a terminal state."),
    CheckConstraint(one_of("state", State), name="state"),
    CheckConstraint("media_type IN ('image', 'video')", name="media_type"),
    CheckConstraint("number_of_outputs BETWEEN 1 AND 10", name="number_of_outputs"),
    CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
    CheckConstraint("when_uncertain IN ('fail', 'resubmit')", name="when_uncertain"),
    CheckConstraint("(ended_at IS NOT NULL) = (state IN ('SUCCESS', 'FAILED', 'CANCELLED'))", name="ended"),
    CheckConstraint("state <> 'FAILED' OR error IS NOT NULL", name="failed_with_reason"),
    CheckConstraint("state <> 'SUCCESS' OR outputs IS NOT NULL", name="success_with_outputs"),
    CheckConstraint("state <> 'PROCESSING' OR provider_task_id IS NOT NULL", name="processing_with_task"),
    CheckConstraint("(batch_id IS NULL) = (batch_index IS NULL)", name="place_in_batch"),
    CheckConstraint("state <> 'HELD' OR batch_id IS NOT NULL", name="held_by_batch"),
    CheckConstraint(
        "(experiment_id IS NULL) = (variant_id IS NULL) AND (variant_id IS NULL) = (experiment_version IS NULL)",
        name="allocated_whole",
    ),
    CheckConstraint("waits_for = 0 OR state IN ('HELD', 'CANCELLED')", name="waits_while_held"),
    comment="One row for each generation that was accepted: the truth about it. By month of its id.",
    postgresql_partition_by="RANGE (id)",
)
Index(
    "ix_generation_requests_continues_id",
    generation_requests.c.continues_id,
    postgresql_where=text("continues_id IS NOT NULL"),
)
# What a dispatcher claims: key by key, and within a key in the order of turns.
Index(
    "ix_generation_requests_waiting",
    generation_requests.c.provider_id,
    generation_requests.c.api_key_id,
    generation_requests.c.turn_at,
    postgresql_where=text("state = 'PENDING'"),
    postgresql_include=["released_at"],
)
# What a generation was run again with.
Index(
    "ix_generation_requests_rerun",
    generation_requests.c.rerun_of_id,
    postgresql_where=text("rerun_of_id IS NOT NULL"),
)
# What has not succeeded, state by state and newest first: what an operator looks for.
Index(
    "ix_generation_requests_state",
    generation_requests.c.state,
    generation_requests.c.id,
    postgresql_where=text("state <> 'SUCCESS'"),
)
# What a log line or a trace leads to.
Index("ix_generation_requests_request_id", generation_requests.c.request_id)
# What takes a place at the provider, and what a dead dispatcher left behind.
Index(
    "ix_generation_requests_at_provider",
    generation_requests.c.provider_id,
    generation_requests.c.state,
    generation_requests.c.lease_until,
    postgresql_where=text("state IN ('DISPATCHING', 'PROCESSING')"),
)
Index(
    "ix_generation_requests_storing",
    generation_requests.c.next_attempt_at,
    postgresql_where=text("state = 'STORING'"),
)

# What an owner lists, newest first; and a page of all owners goes by the primary key.
Index("ix_generation_requests_owner", generation_requests.c.owner, generation_requests.c.id)
# What an identical request may reuse, and what a client's repeat is to join.
Index(
    "ix_generation_requests_same",
    generation_requests.c.owner,
    generation_requests.c.request_hash,
    generation_requests.c.created_at,
    postgresql_where=text("request_hash IS NOT NULL"),
)
# Rows without labels cost it nothing.
Index(
    "ix_generation_requests_labels",
    generation_requests.c.labels,
    postgresql_using="gin",
    postgresql_ops={"labels": "jsonb_path_ops"},
    postgresql_where=text("labels <> '{}'::jsonb"),
)
# Whose files are still shown by another.
Index(
    "ix_generation_requests_reused",
    generation_requests.c.reused_from_id,
    postgresql_where=text("reused_from_id IS NOT NULL"),
)
Index(
    "ix_generation_requests_batch",
    generation_requests.c.batch_id,
    generation_requests.c.id,
    postgresql_where=text("batch_id IS NOT NULL"),
)
# A batch's generations by their places: for its pages, and for what depends on them.
Index(
    "ix_generation_requests_batch_index",
    generation_requests.c.batch_id,
    generation_requests.c.batch_index,
    postgresql_where=text("batch_id IS NOT NULL"),
)
# Who makes a picture that another of the batch starts from.
Index(
    "ix_generation_requests_batch_ref",
    generation_requests.c.batch_id,
    generation_requests.c.batch_ref,
    postgresql_where=text("batch_ref IS NOT NULL"),
)
# Why parts of a batch did not succeed.
Index(
    "ix_generation_requests_batch_unsuccessful",
    generation_requests.c.batch_id,
    generation_requests.c.id,
    postgresql_where=text("batch_id IS NOT NULL AND state IN ('FAILED', 'CANCELLED')"),
)
# What of a batch may be released next: in order, and for a provider account.
Index(
    "ix_generation_requests_held",
    generation_requests.c.batch_id,
    generation_requests.c.waits_for,
    generation_requests.c.batch_index,
    postgresql_where=text("state = 'HELD'"),
)
Index(
    "ix_generation_requests_held_for",
    generation_requests.c.batch_id,
    generation_requests.c.provider_id,
    generation_requests.c.batch_index,
    postgresql_where=text("state = 'HELD' AND waits_for = 0"),
)
# What of a batch is under way: never more than its max_concurrency.
Index(
    "ix_generation_requests_released",
    generation_requests.c.batch_id,
    generation_requests.c.state,
    postgresql_where=text("batch_id IS NOT NULL AND state IN ('PENDING', 'DISPATCHING', 'PROCESSING', 'STORING')"),
)
Index(
    "ix_generation_requests_experiment",
    generation_requests.c.experiment_id,
    generation_requests.c.id,
    postgresql_where=text("experiment_id IS NOT NULL"),
)
# What a person asked for before: for experiments, and for who asks about one.
Index(
    "ix_generation_requests_user",
    generation_requests.c.owner,
    generation_requests.c.user_id,
    generation_requests.c.created_at,
    postgresql_where=text("user_id IS NOT NULL"),
)
