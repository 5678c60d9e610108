"""Every metric of every service, in one place, so that names, units and labels are decided once.

Labels are bounded: providers, models, codes and method names come from the catalog and the protos, never from callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from prometheus_client import Counter, Gauge, Histogram

_LABEL_VALUES_LIMIT = 200
_OTHER_VALUES = "(other)"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800)

BUILD = Gauge(
    "darkroom_build_info", "Constant 1; the labels say which service and version runs.", ["service", "version"]
)

RPC_SECONDS = Histogram(
    "darkroom_rpc_seconds", "Time to answer an RPC, in seconds.", ["method", "status"], buckets=_SECONDS
)
RPC_CLIENT_SECONDS = Histogram(
    "darkroom_rpc_client_seconds",
    "Time of an RPC to another service, in seconds.",
    ["method", "status"],
    buckets=_SECONDS,
)
RPC_ACTIVE = Gauge("darkroom_rpc_active", "RPCs in progress.", ["method"])

DROPPED_READERS = Counter(
    "darkroom_dropped_readers_total", "Streams that were ended because nobody read them.", ["method"]
)
SHARES_HELD = Gauge(
    "darkroom_shares_held",
    "What is open and counted against shares. kind: calls, streams, keyless_streams, health_port_streams, "
    "http_requests or live_pages; in bytes message_bytes, answer_bytes, http_body_bytes or http_keyless_body_bytes.",
    ["kind"],
)
SHARES_REFUSED = Counter(
    "darkroom_shares_refused_total",
    "Calls, streams and requests refused because a share was used up. kind: as for darkroom_shares_held; share: "
    "total, address, key or owner.",
    ["kind", "share"],
)
RPC_CONNECTIONS_CLOSED = Counter(
    "darkroom_connections_closed_total",
    "Connections to the ports of gRPC, health and metrics that were closed. reason: the share that was used up "
    "(total, address, key, owner), keyless (too many bytes or calls, none of them authenticated), unread (answers "
    "not taken), cancelled (calls cancelled as soon as they were made) or frames (frames that belong to no call).",
    ["reason"],
)
RPC_ADDRESSES_BLOCKED = Counter(
    "darkroom_addresses_blocked_total",
    "Addresses that could not open connections to a gRPC port for some seconds, because they exceeded the limit of "
    "unauthenticated bytes and calls, or cancelled calls as soon as they had made them.",
)
WATCHERS = Gauge("darkroom_gateway_watchers", "Streams that wait for changes.")
AUTHENTICATIONS = Counter(
    "darkroom_gateway_authentications_total",
    "API keys that were checked. outcome: known, refused or missing.",
    ["outcome"],
)
ADMISSIONS_REFUSED = Counter(
    "darkroom_gateway_admissions_refused_total",
    "Generations refused because of a quota. quota: requests_per_minute, live_generations or monthly_budget_usd.",
    ["quota"],
)
REPEATS = Counter(
    "darkroom_gateway_repeats_total",
    "Requests answered without a new submit. reason: idempotency, reuse or client_retry.",
    ["reason"],
)
HTTP_SECONDS = Histogram(
    "darkroom_http_seconds",
    "Time to answer an HTTP request, in seconds.",
    ["method", "route", "status"],
    buckets=_SECONDS,
)
CONNECTIONS_CUT_OFF = Counter(
    "darkroom_http_connections_cut_off_total",
    "Connections to the HTTP port that were refused or closed. reason: full or share (one too many, in all or of "
    "their address), idle (closed to make room for another), slow (headers came too slowly), large (headers were "
    "too large) or unread (nothing of an answer was taken for long).",
    ["reason"],
)
CALLBACKS = Counter(
    "darkroom_callbacks_total",
    "Attempts to deliver callbacks. outcome: delivered, failed, dead or fenced (the lease had passed to another "
    "process).",
    ["event", "outcome"],
)
SPEND_USD = Counter(
    "darkroom_spend_usd_total",
    "Known cost of ended generations, in US dollars. label and value: a label that DARKROOM_SPEND_LABELS names, "
    "both empty for all generations; at most 200 values of a label, the others as (other).",
    ["model", "provider", "label", "value"],
)

EVENT_LOOP_LAG_SECONDS = Histogram(
    "darkroom_event_loop_lag_seconds",
    "How late the event loop of the service runs what is due, measured twenty times a second, in seconds. While it "
    "is blocked, nothing is answered.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30, 60),
)
READY = Gauge("darkroom_ready", "1 while the service is ready to serve, else 0.")
LOOP_ITERATIONS = Counter(
    "darkroom_loop_iterations_total",
    "Iterations of a background loop. outcome: success or failure.",
    ["loop", "outcome"],
)
LOOP_LAST_SUCCESS = Gauge(
    "darkroom_loop_last_success_timestamp_seconds",
    "Unix time at which an iteration of a background loop last succeeded.",
    ["loop"],
)

REPLICA_IN_USE = Gauge(
    "darkroom_database_replica_in_use",
    "1 while statistics are read from the standby, else 0. Of the monitor and the experiments service.",
)
REPLICA_LAG_SECONDS = Gauge(
    "darkroom_database_replica_lag_seconds",
    "How far the standby was behind at the last check, in seconds. Of the monitor and the experiments service.",
)
PARTITIONS_END = Gauge(
    "darkroom_partitions_end_timestamp_seconds",
    "Unix time until which a table has partitions for new rows. Of the monitor.",
    ["table"],
)
DATABASE_STATEMENTS = Counter("darkroom_database_statements_total", "SQL statements sent.")
DATABASE_TRANSACTION_SECONDS = Histogram(
    "darkroom_database_transaction_seconds",
    "Time of a transaction with its wait for a thread, in seconds.",
    ["name"],
    buckets=_SECONDS,
)
DATABASE_CONNECTIONS = Gauge("darkroom_database_connections", "Open connections of the pool.")
DATABASE_CONNECTIONS_IN_USE = Gauge("darkroom_database_connections_in_use", "Connections of the pool in use.")
WRITER_GROUP_SIZE = Histogram(
    "darkroom_writer_group_size",
    "Rows that share a transaction.",
    ["writer"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000),
)

GENERATIONS_CREATED = Counter("darkroom_generations_created_total", "Generations accepted.", ["model"])
BATCHES_CREATED = Counter("darkroom_batches_created_total", "Batches accepted.")
BATCHES_ENDED = Counter("darkroom_batches_ended_total", "Batches whose generations have all ended.", ["status"])
BATCH_SECONDS = Histogram(
    "darkroom_batch_seconds", "From the acceptance of a batch to its end, in seconds.", ["status"], buckets=_SECONDS
)
BATCHES_OPEN = Gauge("darkroom_batches_open", "Batches that have not ended.")
BATCH_PLACES = Counter(
    "darkroom_batch_places_total",
    "Generations of batches that a dispatcher gave a place. reason: free (the place was free) or made_way (another "
    "generation made way at a full account). Places that generations hand on when they end are not counted.",
    ["reason"],
)
GENERATIONS_ENDED = Counter(
    "darkroom_generations_ended_total",
    "Generations ended by this process. code: the error code, empty for a success.",
    ["model", "provider", "state", "code"],
)
QUEUE_WAIT_SECONDS = Histogram(
    "darkroom_queue_wait_seconds",
    "From acceptance, or release from a batch, to the first submit, in seconds.",
    ["provider"],
    buckets=_SECONDS,
)
RETRIES = Counter(
    "darkroom_retries_total",
    "Operations repeated after a failure. operation: submit, check or store.",
    ["provider", "operation"],
)
GENERATION_SECONDS = Histogram(
    "darkroom_generation_seconds", "From acceptance to the end, in seconds.", ["model", "state"], buckets=_SECONDS
)

ADAPTER_CALL_SECONDS = Histogram(
    "darkroom_adapter_call_seconds",
    "Time of a call to a provider, in seconds. call: submit, check, find or cancel; outcome: success or failure.",
    ["provider", "call", "outcome"],
    buckets=_SECONDS,
)
ADAPTER_LAST_ERROR = Gauge(
    "darkroom_adapter_last_error_timestamp_seconds",
    "Unix time at which a call to a provider last failed.",
    ["provider"],
)
ADAPTER_UNKNOWN_STATES = Counter(
    "darkroom_adapter_unknown_states_total",
    "Replies with a state that the adapter does not know, because a vendor has changed something.",
    ["provider"],
)
SUBMITS_UNDER_WAY = Gauge(
    "darkroom_dispatcher_submits_under_way", "Submits that were sent and are not answered.", ["provider"]
)
LOOKUPS_WAITING = Gauge(
    "darkroom_dispatcher_lookups_waiting",
    "Submissions whose reply is lost and whose tasks are being looked up.",
    ["provider"],
)
CLAIMED = Counter(
    "darkroom_claimed_total",
    "Rows claimed. kind: generation, task, result, or rescue for generations whose process died.",
    ["kind"],
)
FENCED_WRITES = Counter(
    "darkroom_fenced_writes_total",
    "Outcomes that came after their lease had passed to another process. A task or a result in them is kept. kind: "
    "dispatch, poll or store.",
    ["kind"],
)
LATE_RESULTS = Counter(
    "darkroom_late_results_total",
    "Results dropped because they came after a cancel. kind: where they came, submit, check, store or webhook.",
    ["kind"],
)
FALLBACKS = Counter(
    "darkroom_fallbacks_total",
    "Generations that went on with another model. model: the model that was left; code: why.",
    ["model", "code"],
)
BREAKER_STATE = Gauge(
    "darkroom_breaker_state",
    "Circuit breaker of a provider, as all dispatchers know it. 0: closed; 1: a probe is in progress; 2: open.",
    ["provider"],
)
PROVIDER_SPEND_USD = Gauge(
    "darkroom_provider_spend_usd",
    "What counts against the daily limit of the provider today (UTC), in US dollars.",
    ["provider"],
)
WEBHOOKS = Counter(
    "darkroom_webhooks_total",
    "Webhooks of providers. outcome: applied, ignored (the task had ended, or the webhook was only a hint), or the "
    "HTTP status with which the webhook was refused.",
    ["provider", "outcome"],
)
POLLS = Counter("darkroom_poller_polls_total", "Polls of tasks. outcome: success or failure.", ["provider", "outcome"])
POLL_LATENESS_SECONDS = Histogram(
    "darkroom_poller_lateness_seconds",
    "From a task's due time to its claim, in seconds.",
    ["provider"],
    buckets=_SECONDS,
)

READY_TO_STORED_SECONDS = Histogram(
    "darkroom_ready_to_stored_seconds",
    "From when the provider was known to have a result until it was stored, in seconds.",
    ["provider"],
    buckets=_SECONDS,
)
STORED_BYTES = Counter("darkroom_storage_stored_bytes_total", "Bytes put into object storage.", ["provider"])
STORAGE_SECONDS = Histogram(
    "darkroom_storage_seconds", "Time of an operation on object storage, in seconds.", ["operation"], buckets=_SECONDS
)
STORAGE_ERRORS = Counter("darkroom_storage_errors_total", "Failed operations on object storage.", ["operation"])
IMAGES = Counter(
    "darkroom_images_total",
    "Input images that were processed. outcome: prepared, unavailable (no worker could process the image), or the "
    "rule that the image breaks.",
    ["outcome"],
)
IMAGE_SECONDS = Histogram(
    "darkroom_image_seconds",
    "From a free worker to the prepared image, in seconds.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
IMAGE_WORKER_DEATHS = Counter(
    "darkroom_image_worker_deaths_total",
    "Workers that ended while they processed an image. cause: cpu_time, killed (out of memory) or crashed.",
    ["cause"],
)
IMAGES_REUSED = Counter(
    "darkroom_images_reused_total",
    "Input images that were prepared or fetched already. from: prepared or fetched.",
    ["from"],
)
EXPERIMENT_REQUESTS = Counter(
    "darkroom_experiment_requests_total",
    "Requests that experiments were asked about. outcome: allocated, unfit (one variant could not run the request) "
    "or unknown (no news of the experiments service).",
    ["outcome"],
)
EXPERIMENT_LINES = Counter("darkroom_experiment_lines_total", "Lines of the ledger of experiments that were added up.")
EXPERIMENT_VARIANTS_PAUSED = Counter(
    "darkroom_experiment_variants_paused_total", "Variants that were paused because they broke a guardrail."
)
ALERT_DELIVERIES = Counter(
    "darkroom_alert_deliveries_total",
    "Attempts to deliver notices of alerts. outcome: delivered, failed, dead or fenced (the lease had passed to "
    "another process).",
    ["channel", "outcome"],
)
ALERTS_OPEN = Gauge("darkroom_alerts_open", "Alerts whose condition holds.", ["type", "severity"])
ERRORS_REPORTED = Counter("darkroom_errors_reported_total", "Errors that were reported to the monitor.", ["level"])
ERRORS_DROPPED = Counter(
    "darkroom_errors_dropped_total",
    "Errors that were dropped: the buffer for the monitor was full, or the monitor does not accept them.",
)
ERRORS_BUFFERED = Gauge("darkroom_errors_buffered", "Errors that wait for the monitor.")
CATALOG_RELOADS = Counter(
    "darkroom_catalog_reloads_total", "Reloads of the catalog. outcome: replaced or refused.", ["outcome"]
)
ALERT_RULES_RELOADS = Counter(
    "darkroom_alert_rules_reloads_total",
    "Reloads of the alert rules. outcome: replaced or refused.",
    ["outcome"],
)


DATABASE_FAMILIES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "darkroom_all_generations_created_total": ("counter", "Generations accepted.", ("model", "provider")),
    "darkroom_all_generations_ended_total": ("counter", "Generations ended.", ("model", "provider", "state", "code")),
    "darkroom_all_tasks_ended_total": ("counter", "Tasks ended.", ("provider", "state")),
    "darkroom_all_spend_usd_total": (
        "counter",
        "Cost of generations that ended, in US dollars.",
        ("model", "provider"),
    ),
    "darkroom_billed_without_result_usd": (
        "gauge",
        "Money spent for submissions without a result, in US dollars. It falls where that is corrected.",
        ("model", "provider"),
    ),
    "darkroom_at_risk_usd": (
        "gauge",
        "Money that may have been billed for submissions, in US dollars. It falls when they are resolved.",
        ("model", "provider"),
    ),
    "darkroom_live_generations": ("gauge", "Generations that have not ended.", ("state",)),
    "darkroom_live_tasks": ("gauge", "Tasks that have not ended.", ("provider",)),
    "darkroom_tasks_overdue_seconds": (
        "gauge",
        "For how long the longest overdue task has been overdue, in seconds.",
        ("provider",),
    ),
    "darkroom_queue_depth": ("gauge", "Generations that wait to be sent.", ("provider",)),
    "darkroom_queue_age_seconds": (
        "gauge",
        "For how long the oldest generation that waits to be sent has waited, in seconds.",
        ("provider",),
    ),
    "darkroom_component_up": ("gauge", "Health of a component. 1: up; 0.5: degraded; 0: down.", ("component",)),
}
"""Metrics that monitors read from the database: by name the type, help and labels. Each replica shows the same."""


def count_end(model: str, provider: str, state: str, code: str, seconds: float) -> None:
    """Count a generation that this process ended, `seconds` after it was accepted. `code` is empty for a success."""
    GENERATIONS_ENDED.labels(model, provider, state, code).inc()
    GENERATION_SECONDS.labels(model, state).observe(max(0.0, seconds))


def count_call(provider: str, call: str, outcome: str, seconds: float) -> None:
    """Count a call to a provider: `call` is submit, check, find or cancel, `outcome` success or failure."""
    ADAPTER_CALL_SECONDS.labels(provider, call, outcome).observe(seconds)
    if outcome == "failure":
        ADAPTER_LAST_ERROR.labels(provider).set_to_current_time()


class Spend:
    """What generations cost, by the labels that the settings name. Callers choose the values, so these are bounded."""

    keys: tuple[str, ...] = ()
    _seen: ClassVar[dict[str, set[str]]] = {}

    @classmethod
    def count(cls, model: str, provider: str, labels: Mapping[str, str], cost_usd: float) -> None:
        """Count what an ended generation cost, in US dollars: once in all, and once for each of its named labels."""
        SPEND_USD.labels(model, provider, "", "").inc(cost_usd)
        for key in cls.keys:
            if key in labels:
                SPEND_USD.labels(model, provider, key, cls._bounded(key, labels[key])).inc(cost_usd)

    @classmethod
    def _bounded(cls, key: str, value: str) -> str:
        seen = cls._seen.setdefault(key, set())
        if value not in seen and len(seen) >= _LABEL_VALUES_LIMIT:
            return _OTHER_VALUES
        seen.add(value)
        return value
