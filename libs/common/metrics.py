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
RPC_ACTIVE = Gauge("darkroom_rpc_active", "RPCs being answered.", ["method"])

DROPPED_READERS = Counter("darkroom_dropped_readers_total", "Streams ended because nobody read them.", ["method"])
SHARES_HELD = Gauge(
    "darkroom_shares_held", "Calls, streams, requests and their bytes, counted against shares.", ["kind"]
)
SHARES_REFUSED = Counter(
    "darkroom_shares_refused_total",
    "Calls, streams and requests refused because a share was used up. `share`: total, address, key or owner.",
    ["kind", "share"],
)
RPC_CONNECTIONS_CLOSED = Counter(
    "darkroom_connections_closed_total",
    "Connections to the ports of gRPC, health and metrics that were closed. `reason`: the share that was used up "
    "(total, address, key, owner), keyless (too many bytes or calls, none of them authenticated), unread (answers not "
    "taken), cancelled (calls cancelled as soon as they were made) or frames (bytes that belong to no call).",
    ["reason"],
)
RPC_ADDRESSES_BLOCKED = Counter(
    "darkroom_addresses_blocked_total",
    "Addresses that could not open connections to a gRPC port for some seconds, because they exceeded the limit of "
    "unauthenticated bytes and calls, or cancelled calls as soon as they had made them.",
)
WATCHERS = Gauge("darkroom_gateway_watchers", "Streams that wait for changes.")
AUTHENTICATIONS = Counter("darkroom_gateway_authentications_total", "API keys looked at.", ["outcome"])
ADMISSIONS_REFUSED = Counter("darkroom_gateway_admissions_refused_total", "Generations over a quota.", ["quota"])
REPEATS = Counter("darkroom_gateway_repeats_total", "Answers without a new submit.", ["reason"])
HTTP_SECONDS = Histogram(
    "darkroom_http_seconds", "Time to answer an HTTP request.", ["method", "route", "status"], buckets=_SECONDS
)
CONNECTIONS_CUT_OFF = Counter(
    "darkroom_http_connections_cut_off_total", "Connections that were not let in, or dawdled.", ["reason"]
)
CALLBACKS = Counter("darkroom_callbacks_total", "Tries to deliver a callback.", ["event", "outcome"])
SPEND_USD = Counter(
    "darkroom_spend_usd_total",
    "Known cost of ended generations, in US dollars. `label` and `value`: one of the labels that the settings name.",
    ["model", "provider", "label", "value"],
)

EVENT_LOOP_LAG_SECONDS = Histogram(
    "darkroom_event_loop_lag_seconds",
    "How late the event loop runs what is due, measured twenty times a second, in seconds.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30, 60),
)
READY = Gauge("darkroom_ready", "1 while the service is ready to serve.")
LOOP_ITERATIONS = Counter("darkroom_loop_iterations_total", "Turns of a background loop.", ["loop", "outcome"])
LOOP_LAST_SUCCESS = Gauge("darkroom_loop_last_success_timestamp_seconds", "When a loop last got through.", ["loop"])

REPLICA_IN_USE = Gauge("darkroom_database_replica_in_use", "1 while statistics are read of the standby.")
REPLICA_LAG_SECONDS = Gauge("darkroom_database_replica_lag_seconds", "How far the standby was behind at the last look.")
PARTITIONS_END = Gauge(
    "darkroom_partitions_end_timestamp_seconds", "Until when a table has a partition for what comes.", ["table"]
)
DATABASE_STATEMENTS = Counter("darkroom_database_statements_total", "SQL statements sent.")
DATABASE_TRANSACTION_SECONDS = Histogram(
    "darkroom_database_transaction_seconds",
    "Time of a transaction with its wait for a thread.",
    ["name"],
    buckets=_SECONDS,
)
DATABASE_CONNECTIONS = Gauge("darkroom_database_connections", "Open connections of the pool.")
DATABASE_CONNECTIONS_IN_USE = Gauge("darkroom_database_connections_in_use", "Connections of the pool at work.")
WRITER_GROUP_SIZE = Histogram(
    "darkroom_writer_group_size",
    "Rows that share a transaction.",
    ["writer"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000),
)

GENERATIONS_CREATED = Counter("darkroom_generations_created_total", "Generations accepted.", ["model"])
BATCHES_CREATED = Counter("darkroom_batches_created_total", "Batches accepted.")
BATCHES_ENDED = Counter("darkroom_batches_ended_total", "Batches of which all generations have ended.", ["status"])
BATCH_SECONDS = Histogram(
    "darkroom_batch_seconds", "From the acceptance of a batch to its end, in seconds.", ["status"], buckets=_SECONDS
)
BATCHES_OPEN = Gauge("darkroom_batches_open", "Batches that have not ended.")
BATCH_PLACES = Counter(
    "darkroom_batch_places_total",
    "Generations that were given a place by whoever looks after batches: a free one, or that of one that made way.",
    ["reason"],
)
GENERATIONS_ENDED = Counter(
    "darkroom_generations_ended_total", "Generations ended by this process.", ["model", "provider", "state", "code"]
)
QUEUE_WAIT_SECONDS = Histogram(
    "darkroom_queue_wait_seconds",
    "From acceptance, or release from a batch, to the first submit, in seconds.",
    ["provider"],
    buckets=_SECONDS,
)
RETRIES = Counter("darkroom_retries_total", "What is done once more after a failure.", ["provider", "operation"])
GENERATION_SECONDS = Histogram(
    "darkroom_generation_seconds", "From acceptance to the end, in seconds.", ["model", "state"], buckets=_SECONDS
)

ADAPTER_CALL_SECONDS = Histogram(
    "darkroom_adapter_call_seconds",
    "Time of a call to a provider, in seconds.",
    ["provider", "call", "outcome"],
    buckets=_SECONDS,
)
ADAPTER_LAST_ERROR = Gauge(
    "darkroom_adapter_last_error_timestamp_seconds", "When a call to a provider last failed.", ["provider"]
)
ADAPTER_UNKNOWN_STATES = Counter(
    "darkroom_adapter_unknown_states_total", "Replies with a state that the adapter does not know.", ["provider"]
)
SUBMITS_UNDER_WAY = Gauge("darkroom_dispatcher_submits_under_way", "Submits sent and not answered.", ["provider"])
LOOKUPS_WAITING = Gauge(
    "darkroom_dispatcher_lookups_waiting", "Submissions without a reply whose tasks are being looked for.", ["provider"]
)
CLAIMED = Counter("darkroom_claimed_total", "Rows claimed.", ["kind"])
FENCED_WRITES = Counter("darkroom_fenced_writes_total", "Outcomes dropped because the lease had passed on.", ["kind"])
LATE_RESULTS = Counter("darkroom_late_results_total", "Results dropped that came after a cancel.", ["kind"])
FALLBACKS = Counter("darkroom_fallbacks_total", "Generations that went on with another model.", ["model", "code"])
BREAKER_STATE = Gauge("darkroom_breaker_state", "0: all may pass; 1: a probe is out; 2: nothing passes.", ["provider"])
PROVIDER_SPEND_USD = Gauge("darkroom_provider_spend_usd", "What was sent today (UTC), in US dollars.", ["provider"])
WEBHOOKS = Counter("darkroom_webhooks_total", "Webhooks of providers.", ["provider", "outcome"])
POLLS = Counter("darkroom_poller_polls_total", "Tasks checked.", ["provider", "outcome"])
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
STORAGE_ERRORS = Counter("darkroom_storage_errors_total", "Failed downloads and uploads.", ["operation"])
IMAGES = Counter("darkroom_images_total", "Input images prepared, or refused by the rule that they break.", ["outcome"])
IMAGE_SECONDS = Histogram(
    "darkroom_image_seconds", "From a free worker to the prepared image.", buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
)
IMAGE_WORKER_DEATHS = Counter(
    "darkroom_image_worker_deaths_total", "Workers that an image was too much for.", ["cause"]
)
IMAGES_REUSED = Counter("darkroom_images_reused_total", "Input images that were prepared already.", ["from"])
EXPERIMENT_REQUESTS = Counter(
    "darkroom_experiment_requests_total",
    "Requests that name a model of a running experiment, by what became of them there.",
    ["outcome"],
)
EXPERIMENT_LINES = Counter("darkroom_experiment_lines_total", "Lines of the experiments' ledger added up.")
EXPERIMENT_VARIANTS_PAUSED = Counter(
    "darkroom_experiment_variants_paused_total", "Variants taken out because they broke a guardrail."
)
ALERT_DELIVERIES = Counter("darkroom_alert_deliveries_total", "Tries to deliver notices.", ["channel", "outcome"])
ALERTS_OPEN = Gauge("darkroom_alerts_open", "Alerts whose condition holds.", ["type", "severity"])
ERRORS_REPORTED = Counter("darkroom_errors_reported_total", "Errors handed to the monitor.", ["level"])
ERRORS_DROPPED = Counter("darkroom_errors_dropped_total", "Errors that found the buffer for the monitor full.")
ERRORS_BUFFERED = Gauge("darkroom_errors_buffered", "Errors that wait for the monitor.")
CATALOG_RELOADS = Counter("darkroom_catalog_reloads_total", "Times the catalog was read anew.", ["outcome"])
ALERT_RULES_RELOADS = Counter(
    "darkroom_alert_rules_reloads_total",
    "Times the file of alert rules was read again. `outcome`: replaced or refused.",
    ["outcome"],
)


DATABASE_FAMILIES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "darkroom_all_generations_created_total": (
        "counter", "Generations accepted, as the database has them.", ("model", "provider"),
    ),
    "darkroom_all_generations_ended_total": (
        "counter", "Generations ended, as the database has them.", ("model", "provider", "state", "code"),
    ),
    "darkroom_all_tasks_ended_total": ("counter", "Tasks ended, as the database has them.", ("provider", "state")),
    "darkroom_all_spend_usd_total": (
        "counter", "Cost of generations that ended, as the database has it.", ("model", "provider"),
    ),
    "darkroom_billed_without_result_usd": (
        "gauge", "Spent for submissions without a result. It falls where that is corrected.", ("model", "provider"),
    ),
    "darkroom_at_risk_usd": (
        "gauge", "What may have been billed for submissions, while that is not known.", ("model", "provider"),
    ),
    "darkroom_live_generations": ("gauge", "Generations that have not ended.", ("state",)),
    "darkroom_live_tasks": ("gauge", "Tasks that have not ended.", ("provider",)),
    "darkroom_tasks_overdue_seconds": ("gauge", "For how long the longest due task has been so.", ("provider",)),
    "darkroom_queue_depth": ("gauge", "Generations that wait to be sent.", ("provider",)),
    "darkroom_queue_age_seconds": ("gauge", "For how long the oldest of them has waited.", ("provider",)),
    "darkroom_component_up": ("gauge", "1: it is up; 0.5: degraded; 0: down.", ("component",)),
}  # fmt: skip
"""What monitors read from the database: by name its type, help and labels. Each replica shows the same."""


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
