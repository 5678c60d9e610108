"""The dashboards: what an operator asks first, and then what tells why. Each query is run by a test against a scrape."""

from __future__ import annotations

from deploy.grafana.panels import Board, Panel, Query

_RATE = "[$__rate_interval]"


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{where}{_RATE}))"


def _quantile(share: float, metric: str, by: str, where: str = "") -> str:
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{where}{_RATE})))"


def _quantiles(metric: str, by: str, where: str = "") -> list[Query]:
    return [
        Query(_quantile(0.5, metric, by, where), f"{{{{{by}}}}} p50"),
        Query(_quantile(0.95, metric, by, where), f"{{{{{by}}}}} p95"),
    ]


OVERVIEW = Board(
    "darkroom-overview",
    "Darkroom: overview",
    [
        (
            "Now",
            [
                Panel("Components up", "short", [Query("min(darkroom_component_up)")], kind="figure", span=4),
                Panel("Alerts open", "short", [Query("max(sum by (instance) (darkroom_alerts_open)) or vector(0)")],
                      kind="figure", span=4),
                Panel("Live generations", "short", [Query("sum(max by (state) (darkroom_live_generations)) or vector(0)")],
                      kind="figure", span=4),
                Panel("Oldest in queue", "s", [Query("max(darkroom_queue_age_seconds) or vector(0)")],
                      kind="figure", span=4),
                Panel("Succeeded in 24 h", "percentunit", [Query(
                    'sum(max by (model, provider, code) (increase(darkroom_all_generations_ended_total{state="SUCCESS"}[24h])))'
                    " / sum(max by (model, provider, state, code)"
                    ' (increase(darkroom_all_generations_ended_total{state!="CANCELLED"}[24h])))')],
                      kind="figure", span=4),
                Panel("Spend in 24 h", "currencyUSD", [Query(
                    "sum(max by (model, provider) (increase(darkroom_all_spend_usd_total[24h])))")],
                      kind="figure", span=4),
            ],
        ),
        (
            "Flow",
            [
                Panel("Generations accepted", "reqps", [Query(_rate("darkroom_generations_created_total", "model"), "{{model}}")]),
                Panel("Generations ended", "ops", [Query(_rate("darkroom_generations_ended_total", "state"), "{{state}}")]),
                Panel("Failures by code", "ops", [Query(
                    _rate("darkroom_generations_ended_total", "code", '{state="FAILED"}'), "{{code}}")]),
                Panel("From acceptance to the result", "s", _quantiles("darkroom_generation_seconds", "model", '{state="SUCCESS"}'),
                      span=12),
                Panel("Wait until sent", "s", _quantiles("darkroom_queue_wait_seconds", "provider"), span=12),
            ],
        ),
        (
            "Processes",
            [
                Panel("CPU", "short", [Query("rate(process_cpu_seconds_total[$__rate_interval])", "{{service}} {{instance}}")],
                      "Cores in use."),
                Panel("Memory", "bytes", [Query("process_resident_memory_bytes", "{{service}} {{instance}}")]),
                Panel("Ready", "short", [Query("darkroom_ready", "{{service}} {{instance}}")]),
                Panel("Errors reported", "ops", [Query(_rate("darkroom_errors_reported_total", "service, level"),
                                                       "{{service}} {{level}}")]),
                Panel("Errors waiting for the monitor", "short", [Query("darkroom_errors_buffered", "{{service}}")]),
                Panel("Loop failures", "ops", [Query(
                    'sum by (service, loop) (rate(darkroom_loop_iterations_total{outcome="failure"}[$__rate_interval])) or vector(0)',
                    "{{service}} {{loop}}")]),
            ],
        ),
    ],
)  # fmt: skip

PROVIDERS = Board(
    "darkroom-providers",
    "Darkroom: providers",
    [
        (
            "Calls",
            [
                Panel("Calls", "reqps", [Query(_rate("darkroom_adapter_call_seconds_count", "provider, call"), "{{provider}} {{call}}")]),
                Panel("Failure share", "percentunit", [Query("provider:darkroom_adapter_calls_failed:ratio_rate5m", "{{provider}}")]),
                Panel("Latency of submits", "s", _quantiles("darkroom_adapter_call_seconds", "provider", '{call="submit"}')),
                Panel("Latency of checks", "s", _quantiles("darkroom_adapter_call_seconds", "provider", '{call="check"}')),
                Panel("Circuit", "short", [Query("max by (provider) (darkroom_breaker_state)", "{{provider}}")],
                      "0: all may pass; 1: a probe is out; 2: nothing passes."),
                Panel("Since the last failed call", "s", [Query(
                    "time() - max by (provider) (darkroom_adapter_last_error_timestamp_seconds)", "{{provider}}")]),
            ],
        ),
        (
            "Work",
            [
                Panel("Waiting", "short", [Query("max by (provider) (darkroom_queue_depth) or vector(0)", "{{provider}}")]),
                Panel("Oldest waiting", "s", [Query("provider:darkroom_queue_age_seconds:max or vector(0)", "{{provider}}")]),
                Panel("Live tasks", "short", [Query("max by (provider) (darkroom_live_tasks) or vector(0)", "{{provider}}")]),
                Panel("Submits under way", "short", [Query("sum by (provider) (darkroom_dispatcher_submits_under_way)", "{{provider}}")]),
                Panel("Done once more after a failure", "ops", [Query(_rate("darkroom_retries_total", "provider, operation"),
                                                           "{{provider}} {{operation}}")]),
                Panel("Failed in the last hour", "percentunit", [Query(
                    "provider:darkroom_generations_failed:ratio_rate1h", "{{provider}}")]),
            ],
        ),
        (
            "Money and files",
            [
                Panel("Counts against the daily limit", "currencyUSD", [Query("max by (provider) (darkroom_provider_spend_usd)", "{{provider}}")]),
                Panel("At risk", "currencyUSD", [Query("sum by (provider) (max by (model, provider) (darkroom_at_risk_usd))", "{{provider}}")]),
                Panel("Spend an hour", "currencyUSD", [Query(
                    '3600 * sum by (model) (rate(darkroom_spend_usd_total{label=""}[$__rate_interval]))', "{{model}}")]),
                Panel("Stored", "Bps", [Query(_rate("darkroom_storage_stored_bytes_total", "provider"), "{{provider}}")]),
                Panel("Object storage", "s", _quantiles("darkroom_storage_seconds", "operation")),
                Panel("Webhooks", "ops", [Query(_rate("darkroom_webhooks_total", "provider, outcome"), "{{provider}} {{outcome}}")]),
            ],
        ),
    ],
)  # fmt: skip

POLLER = Board(
    "darkroom-poller",
    "Darkroom: dispatcher and poller",
    [
        (
            "Polling",
            [
                Panel("Checks", "ops", [Query(_rate("darkroom_poller_polls_total", "provider, outcome"), "{{provider}} {{outcome}}")]),
                Panel("Lateness", "s", _quantiles("darkroom_poller_lateness_seconds", "provider"),
                      "From a task's due time to its claim."),
                Panel("Longest due", "s", [Query("max by (provider) (darkroom_tasks_overdue_seconds) or vector(0)", "{{provider}}")]),
                Panel("Claims", "ops", [Query(_rate("darkroom_claimed_total", "kind"), "{{kind}}")]),
                Panel("Rows that share a transaction", "short", _quantiles("darkroom_writer_group_size", "writer")),
                Panel("Callbacks", "ops", [Query(_rate("darkroom_callbacks_total", "event, outcome"), "{{event}} {{outcome}}")]),
            ],
        ),
        (
            "Batches",
            [
                Panel("Batches that have not ended", "short", [Query("max(darkroom_batches_open)", "open")]),
                Panel("Batches ended", "ops", [Query(_rate("darkroom_batches_ended_total", "status"), "{{status}}")]),
                Panel("From acceptance to the end of a batch", "s", _quantiles("darkroom_batch_seconds", "status")),
                Panel("Places given", "ops", [Query(_rate("darkroom_batch_places_total", "reason"), "{{reason}}")],
                      "Free ones, and those of generations that made way at a full account."),
            ],
        ),
        (
            "Database",
            [
                Panel("Transactions", "s", [Query(_quantile(0.95, "darkroom_database_transaction_seconds", "name"), "{{name}} p95")],
                      span=12),
                Panel("Statements", "ops", [Query(_rate("darkroom_database_statements_total", "service"), "{{service}}")], span=12),
                Panel("Connections", "short", [Query("sum by (service) (darkroom_database_connections)", "{{service}}"),
                                               Query("sum by (service) (darkroom_database_connections_in_use)", "{{service}} in use")]),
                Panel("Turns of loops", "ops", [Query(_rate("darkroom_loop_iterations_total", "service, loop"), "{{service}} {{loop}}")]),
                Panel("RPCs to other services", "s", _quantiles("darkroom_rpc_client_seconds", "method")),
                Panel("Lag of the event loop", "s", [Query(_quantile(0.99, "darkroom_event_loop_lag_seconds", "service"), "{{service}} p99")]),
            ],
        ),
    ],
)  # fmt: skip

GATEWAY = Board(
    "darkroom-gateway",
    "Darkroom: gateway",
    [
        (
            "RPCs",
            [
                Panel("RPCs", "reqps", [Query(_rate("darkroom_rpc_seconds_count", "method", '{service="gateway"}'), "{{method}}")]),
                Panel("By status", "reqps", [Query(_rate("darkroom_rpc_seconds_count", "status", '{service="gateway"}'), "{{status}}")]),
                Panel("Time to answer", "s", [Query(_quantile(0.99, "darkroom_rpc_seconds", "method", '{service="gateway"}'),
                                                    "{{method}} p99")]),
                Panel("Being answered", "short", [Query('sum by (method) (darkroom_rpc_active{service="gateway"})', "{{method}}")]),
                Panel("Failing RPCs", "percentunit", [Query("service:darkroom_rpc_errors:ratio_rate5m", "{{service}}")]),
                Panel("Streams that wait", "short", [Query("sum(darkroom_gateway_watchers)", "watchers")]),
            ],
        ),
        (
            "HTTP",
            [
                Panel("Requests", "reqps", [Query(_rate("darkroom_http_seconds_count", "route, status"), "{{route}} {{status}}")]),
                Panel("Time to answer over HTTP", "s", [Query(_quantile(0.99, "darkroom_http_seconds", "route"), "{{route}} p99")]),
                Panel("Connections cut off", "ops", [Query(
                    "sum by (reason) (rate(darkroom_http_connections_cut_off_total[$__rate_interval])) or vector(0)", "{{reason}}"), Query(
                    "sum by (service, reason) (rate(darkroom_connections_closed_total[$__rate_interval])) or vector(0)", "{{service}} {{reason}}")]),
            ],
        ),
        (
            "Keys",
            [
                Panel("Keys looked at", "ops", [Query(_rate("darkroom_gateway_authentications_total", "outcome"), "{{outcome}}")]),
                Panel("Over a quota", "ops", [Query(
                    "sum by (quota) (rate(darkroom_gateway_admissions_refused_total[$__rate_interval])) or vector(0)", "{{quota}}")]),
                Panel("Answers without a new submit", "ops", [Query(
                    "sum by (reason) (rate(darkroom_gateway_repeats_total[$__rate_interval])) or vector(0)", "{{reason}}")]),
                Panel("Held against shares", "short", [Query('sum by (kind) (darkroom_shares_held{kind!~".*_bytes"})', "{{kind}}")]),
                Panel("Bytes of requests held", "bytes", [Query('sum by (kind) (darkroom_shares_held{kind=~".*_bytes"})', "{{kind}}")]),
                Panel("Refused: a share is used up", "ops", [Query(
                    "sum by (kind, share) (rate(darkroom_shares_refused_total[$__rate_interval]))", "{{kind}} {{share}}")]),
            ],
        ),
    ],
)  # fmt: skip

BOARDS = (OVERVIEW, PROVIDERS, POLLER, GATEWAY)
