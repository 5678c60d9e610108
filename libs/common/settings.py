"""Every setting of every service, in one class, read from the environment.

Names start with `DARKROOM_`; the log settings also answer to `LOG_…`. Nothing else reads the environment, except
that the catalog names the variables that hold the providers' credentials, and the alert rules those of the channels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    AliasChoices,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

ServiceName = Literal["gateway", "dispatcher", "poller", "monitor", "experiments"]
LogLevel = Literal["trace", "debug", "info", "warn", "error", "fatal"]


def _log_alias(name: str) -> AliasChoices:
    return AliasChoices(f"DARKROOM_LOG_{name}", f"LOG_{name}")


class Settings(BaseSettings):
    """What an operator may set. Durations are in seconds, sizes in bytes unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="DARKROOM_", frozen=True)

    secrets: Path | None = Field(
        default=None,
        description="Folder of files, each named like a variable and holding its value: the secrets among these "
        "settings, the catalog's credentials and the secrets of alert channels. A secret in a file does "
        "not show in the description of a process. A variable that is set takes precedence over its file.",
    )
    database_url: SecretStr = Field(
        description="URL of Postgres for SQLAlchemy: `postgresql+psycopg2://user:password@host/database`."
    )
    database_pool_size: PositiveInt = Field(
        default=8, description="Connections, and threads, of one service. One more connection checks its readiness."
    )
    database_statement_timeout_seconds: PositiveFloat = Field(
        default=30.0, description="Postgres ends statements that take longer."
    )

    database_replica_url: SecretStr | None = Field(
        default=None,
        description="URL of a standby from which statistics are read. If not set, they are read from the primary.",
    )
    database_replica_lag_seconds: PositiveFloat = Field(
        default=60.0, description="A standby that is further behind the primary is not read."
    )

    s3_endpoint_url: str | None = Field(
        default=None, description="Endpoint of an S3-compatible object storage. If not set, Amazon's."
    )
    s3_bucket: str = Field(default="darkroom", description="Bucket for all objects.")
    s3_region: str = Field(default="us-east-1", description="Region of the bucket.")
    s3_access_key_id: SecretStr | None = Field(
        default=None, description="Access key of object storage. If not set, boto3's credential chain applies."
    )
    s3_secret_access_key: SecretStr | None = Field(
        default=None, description="Secret of the access key. If not set, boto3's credential chain applies."
    )
    s3_public_base_url: str | None = Field(
        default=None,
        description="Base URL, for instance of a CDN, from which clients read results unsigned. If not set, URLs are "
        "presigned.",
    )
    s3_presigned_url_seconds: PositiveInt = Field(
        default=86_400, le=604_800, description="Lifetime of a presigned URL."
    )
    storage_threads: PositiveInt = Field(
        default=8, description="Concurrent requests to object storage, for instance uploads, of one process."
    )
    download_limit_bytes: PositiveInt = Field(default=2 * 1024**3, description="Largest output that is accepted.")
    download_timeout_seconds: PositiveFloat = Field(
        default=300.0, description="Time limit for the whole download of one output."
    )

    image_workers: NonNegativeInt = Field(
        default=0,
        description="Processes of the gateway, and of the dispatcher, that decode input images. 0: as many as the "
        "control group has processors and memory for. A worker takes 60 MB, for the largest images up to "
        "800 MB, and up to 1,300 MB if they are enhanced too.",
    )
    image_isolation: Literal["best_effort", "required"] = Field(
        default="best_effort",
        description="`required`: the gateway and the dispatcher do not start where the kernel lacks a protection of "
        "image workers. `best_effort`: they log the protections that are missing.",
    )
    image_memory_bytes: PositiveInt = Field(
        default=1_500_000_000,
        description="Address space of one image worker. An image that needs more is refused. The limit is lowered, "
        "with a warning, where the control group has no room for it. The default is enough for the "
        "largest image that is accepted.",
    )
    image_cpu_seconds: PositiveInt = Field(default=20, description="Processor time that one image may take.")
    image_limit_bytes: PositiveInt = Field(
        default=30_000_000, description="File size of the largest input image that is accepted."
    )
    image_limit_pixels: PositiveInt = Field(
        default=64_000_000, description="Pixels of the largest input image that is accepted."
    )
    image_fetch_seconds: PositiveFloat = Field(
        default=30.0, description="Time limit for the whole download of one input image."
    )
    image_cache_bytes: PositiveInt = Field(
        default=64 * 1024**2, description="Memory of a service for prepared images, and as much again for fetched ones."
    )
    image_kept_bytes_per_owner: PositiveInt = Field(
        default=10 * 1024**3,
        description="Bytes of an owner's images that one gateway puts into object storage for PreprocessImage on one "
        "day (UTC).",
    )
    image_waiting: PositiveInt = Field(
        default=32,
        description="Calls of PreprocessImage that may wait for a worker, at most half of them of one owner.",
    )
    image_allowed_hosts: str = Field(
        default="",
        description="Hosts, separated by commas, from which input images are fetched although their addresses are "
        "not public.",
    )

    catalog: Path = Field(
        default=Path("catalog.yaml"), description="File of the catalog: providers, models, prices and limits."
    )
    catalog_check_seconds: PositiveFloat = Field(
        default=2.0, description="Interval at which the catalog's file is checked for changes."
    )

    bind_host: str = Field(default="127.0.0.1", description="Address on which gRPC, HTTP and metrics listen.")
    gateway_port: int = Field(default=50051, description="gRPC port of the gateway.")
    dispatcher_port: int = Field(default=50052, description="gRPC port of the dispatcher.")
    poller_port: int = Field(default=50053, description="gRPC port of the poller.")
    monitor_port: int = Field(default=50054, description="gRPC port of the monitor.")
    experiments_port: int = Field(default=50055, description="gRPC port of the experiments service.")
    gateway_metrics_port: int = Field(default=9101, description="Port of `/metrics` of the gateway.")
    dispatcher_metrics_port: int = Field(default=9102, description="Port of `/metrics` of the dispatcher.")
    poller_metrics_port: int = Field(default=9103, description="Port of `/metrics` of the poller.")
    monitor_metrics_port: int = Field(default=9104, description="Port of `/metrics` of the monitor.")
    experiments_metrics_port: int = Field(default=9105, description="Port of `/metrics` of the experiments service.")
    gateway_http_port: int = Field(
        default=8080,
        description="HTTP port of the gateway: REST, the OpenAI-compatible API, webhooks of providers and the console.",
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="URL at which providers reach the gateway's HTTP port. If not set, providers are asked for no "
        "webhooks.",
    )
    key_secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Secret with which API keys are hashed and callbacks are signed. The gateway and the poller "
        "require it. It must be the same for all of them and must not change.",
    )
    admin_key: SecretStr | None = Field(
        default=None,
        min_length=24,
        max_length=200,
        description="First admin key. If not set, none is created. Another value replaces the key at the next start.",
    )
    key_cache_seconds: PositiveFloat = Field(
        default=5.0, description="How long other replicas may still accept a key that was revoked."
    )
    wrong_key_delay_seconds: NonNegativeFloat = Field(
        default=2.0,
        description="Longest delay of the response to a wrong key. Responses are delayed progressively from the "
        "sixth wrong key of a client address within a minute on; valid keys are never delayed. Set 0 "
        "where all clients have one address.",
    )
    service_token: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Token with which services authenticate to each other. It is required without certificates. "
        "Several tokens are separated by commas: the first is sent and all are accepted, so that the "
        "token can be replaced without downtime.",
    )
    internal_tls_certificate: Path | None = Field(
        default=None,
        description="PEM file of a service's certificate, for mutual TLS between services in place of the token. The "
        "three `DARKROOM_INTERNAL_TLS_…` are set together.",
    )
    internal_tls_private_key: Path | None = Field(
        default=None, description="PEM file of the private key of a service's certificate."
    )
    internal_tls_ca: Path | None = Field(
        default=None, description="PEM file of the CA that signed the certificates of services."
    )
    certificate_check_seconds: PositiveFloat = Field(
        default=60.0,
        description="Interval at which the PEM files of services and of the gateway are checked for changes. A "
        "service whose files were replaced stops gracefully, so that its supervisor starts it again.",
    )
    certificate_spread_seconds: NonNegativeFloat = Field(
        default=300.0,
        description="A service whose certificates were replaced stops at a random moment within this time, so that "
        "services do not stop all at once.",
    )
    gateway_tls_certificate: Path | None = Field(
        default=None, description="PEM file of the certificate of the gateway's two ports, set together with its key."
    )
    gateway_tls_private_key: Path | None = Field(
        default=None, description="PEM file of the private key of the gateway's certificate."
    )

    cors_origins: str = Field(
        default="", description="Origins, separated by commas, from which browsers may call; `*` for all."
    )
    http_body_limit_bytes: PositiveInt = Field(
        default=16 * 1024**2, description="Largest HTTP body that is accepted, after it is decompressed."
    )
    upload_limit_bytes: PositiveInt = Field(
        default=512 * 1024**2,
        description="Largest batch that is accepted as JSONL or as messages of UploadBatch. Each line of it has the "
        "limit of a body.",
    )
    upload_timeout_seconds: PositiveFloat = Field(
        default=900.0, description="Time limit for the whole upload of a batch."
    )
    uploads_per_owner: PositiveInt = Field(
        default=8, description="Uploads of an owner in progress at once in one gateway; half as many of an API key."
    )
    upload_bytes_per_owner: PositiveInt = Field(
        default=2 * 1024**3,
        description="Bytes of an owner's batches that one gateway stores before they are committed; half as many of "
        "an API key.",
    )
    http_header_timeout_seconds: PositiveFloat = Field(
        default=10.0, description="Time limit for a client to send its headers."
    )
    http_body_timeout_seconds: PositiveFloat = Field(
        default=30.0, description="Time limit for a client to send its body."
    )
    http_connections: PositiveInt = Field(
        default=2_000,
        description="Connections to the HTTP port. One more closes the connection that has been idle for longest, or "
        "is closed itself where none is idle.",
    )
    http_connections_per_address: NonNegativeInt = Field(
        default=1_000,
        description="Connections to the HTTP port of one address, by the same rule; an IPv6 address counts as its "
        "/64 network. 0: no limit. Set 0 behind a proxy.",
    )
    http_requests_per_key: PositiveInt = Field(
        default=500,
        description="HTTP requests of one API key in progress, streams and waiting calls included. More are refused "
        "with 429.",
    )
    http_requests_per_owner: PositiveInt = Field(
        default=1_000,
        description="HTTP requests of one owner in progress, streams and waiting calls included. More are refused "
        "with 429.",
    )
    openai_wait_seconds: PositiveFloat = Field(
        default=120.0,
        description="How long the OpenAI-compatible API waits for an image before it answers 504 with the "
        "generation's id.",
    )
    watch_interval_seconds: PositiveFloat = Field(
        default=0.1, description="Interval at which a gateway reads changes for all its watchers."
    )
    watch_write_timeout_seconds: PositiveFloat = Field(
        default=15.0,
        description="A watcher, or a client that downloads, is dropped after it has read nothing for this time.",
    )
    callback_concurrency: PositiveInt = Field(
        default=50, description="Callbacks that one poller delivers concurrently."
    )
    callback_timeout_seconds: PositiveFloat = Field(
        default=15.0, description="Time limit for a receiver to answer a callback."
    )
    callback_allowed_hosts: str = Field(
        default="",
        description="Hosts, separated by commas, to which callbacks are sent although their addresses are not "
        "public; a leading dot stands for all hosts below.",
    )
    spend_labels: str = Field(
        default="", description="Keys of labels, separated by commas, by which `darkroom_spend_usd_total` is counted."
    )

    dispatcher_address: str = Field(
        default="127.0.0.1:50052",
        description="Address of the dispatcher, for wake-ups. A wrong address costs latency, nothing else.",
    )
    poller_address: str = Field(
        default="127.0.0.1:50053",
        description="Address of the poller, for wake-ups. A wrong address costs latency, nothing else.",
    )
    monitor_address: str = Field(
        default="127.0.0.1:50054",
        description="Address of the monitor, to which errors are reported and the gateway forwards calls about "
        "monitoring.",
    )
    experiments_address: str = Field(
        default="127.0.0.1:50055",
        description="Address of the experiments service, for the gateway and for the health checks of the monitor.",
    )
    gateway_address: str = Field(
        default="127.0.0.1:50051",
        description="Address of the gateway, for the health checks of the monitor. With TLS a name of the gateway's "
        "certificate, which the CA of `DARKROOM_INTERNAL_TLS_CA` or one of the system's CAs has signed.",
    )

    alert_rules: Path = Field(
        default=Path("alerts.yaml"), description="File of the alert rules, which the monitor reads."
    )
    console_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="URL at which people reach the console, with its `/admin`. Alerts link to it; with `https` the "
        "console's cookies are sent over TLS only.",
    )
    console_session_seconds: PositiveFloat = Field(
        default=43_200.0, description="Longest duration of a session of the console."
    )
    console_idle_seconds: PositiveFloat = Field(
        default=3_600.0, description="A session of the console ends after this time without a request for a page."
    )
    console_live_seconds: PositiveFloat = Field(
        default=2.0, description="Interval at which a live page of the console is updated."
    )
    audit_days: PositiveInt = Field(default=400, description="Retention of the audit log of the console: who did what.")
    health_check_seconds: PositiveFloat = Field(
        default=3.0, description="Interval at which the monitor checks the health of all components."
    )
    error_warn_days: PositiveInt = Field(default=7, description="Retention of warnings in the error log.")
    error_error_days: PositiveInt = Field(default=30, description="Retention of errors in the error log.")
    error_critical_days: PositiveInt = Field(default=90, description="Retention of critical errors in the error log.")
    generation_days: PositiveInt | None = Field(
        default=None,
        description="Retention of generations and of everything that belongs to them, by whole months. If not set, "
        "they are kept for ever.",
    )
    at_risk_days: PositiveInt = Field(
        default=7, description="After this many days, money at risk that nobody resolved is counted as spent."
    )
    alert_days: PositiveInt = Field(default=365, description="Retention of resolved alerts.")
    error_buffer_entries: PositiveInt = Field(
        default=10_000,
        description="Errors that a process keeps while the monitor cannot be reached. More are only counted.",
    )
    error_buffer_bytes: PositiveInt = Field(
        default=16 * 1024**2,
        description="Size of all errors that a process keeps while the monitor cannot be reached. More are only "
        "counted.",
    )

    experiment_refresh_seconds: PositiveFloat = Field(
        default=1.0,
        description="Within this time a gateway learns of an experiment that starts, pauses or changes its shares.",
    )
    experiment_stale_seconds: PositiveFloat = Field(
        default=60.0, description="After this time without news of the experiments, requests run without them."
    )
    experiment_adapt_seconds: PositiveFloat = Field(
        default=60.0, description="Interval at which guardrails, adaptive shares and ends of experiments are evaluated."
    )

    grpc_message_limit_bytes: PositiveInt = Field(
        default=16 * 1024**2, description="Largest gRPC message that is accepted."
    )
    grpc_concurrent_rpcs: PositiveInt = Field(
        default=5_000,
        description="Concurrent unary RPCs of one service, at most half of them of one owner. More are refused. "
        "Health checks do not count.",
    )
    grpc_message_seconds: PositiveFloat = Field(
        default=30.0, description="Time limit for a client to send the message of an RPC that it has begun."
    )
    grpc_connections: PositiveInt = Field(
        default=2_000,
        description="Connections to a gRPC port, at most half of them of one owner and a quarter of one API key.",
    )
    grpc_connections_per_address: NonNegativeInt = Field(
        default=1_000, description="Connections to a gRPC port of one address. 0: no limit. Set 0 behind a proxy."
    )
    request_bytes: PositiveInt = Field(
        default=256 * 1024**2,
        description="Bytes of requests that a service holds at once, of gRPC messages and of HTTP bodies each; at "
        "most half of them of one owner and a quarter of one API key.",
    )
    grpc_reflection: bool = Field(default=True, description="Whether the gRPC ports serve server reflection.")
    streams: PositiveInt = Field(
        default=3_000, description="Open gRPC streams (watchers and uploads) of one service. More are refused."
    )
    streams_per_key: PositiveInt = Field(
        default=1_000, description="Open gRPC streams of one API key. More are refused."
    )
    streams_per_owner: PositiveInt = Field(
        default=1_500, description="Open gRPC streams of one owner. More are refused."
    )
    streams_per_address: NonNegativeInt = Field(
        default=2_000,
        description="Open gRPC streams of one address, an IPv6 address as its /64 network. More are refused. 0: no "
        "limit. Set 0 behind a proxy.",
    )
    keyless_streams: PositiveInt = Field(
        default=500,
        description="Open gRPC streams of one service that need no API key: `Watch` of health, and reflection.",
    )
    keyless_streams_per_address: NonNegativeInt = Field(
        default=100, description="Open gRPC streams of one address that need no API key. 0: no limit."
    )
    keyless_stream_seconds: PositiveFloat = Field(
        default=600.0,
        description="A stream that needs no API key is ended with UNAVAILABLE after this time, so that its client "
        "opens another.",
    )
    grpc_concurrent_streams: PositiveInt = Field(
        default=100,
        description="Concurrent RPCs on one connection. More wait in the client, or take another connection.",
    )
    rpc_timeout_seconds: PositiveFloat = Field(
        default=30.0, description="Time limit of a unary RPC. One that takes longer ends with DEADLINE_EXCEEDED."
    )
    drain_seconds: PositiveFloat = Field(
        default=20.0, description="At a stop, time for RPCs, polls and results in progress to end."
    )
    submit_drain_seconds: PositiveFloat = Field(
        default=120.0,
        description="At a stop, time for submits in progress to end. One that is cut off is uncertain, so the grace "
        "period of the container must be longer.",
    )
    drain_delay_seconds: NonNegativeFloat = Field(
        default=0.0,
        description="At a stop, time in which a service that is no longer ready still accepts requests, until the "
        "load balancer has noticed. HTTP connections are closed with their next response.",
    )
    readiness_check_seconds: PositiveFloat = Field(
        default=2.0, description="Interval at which the database is checked for readiness."
    )
    stuck_seconds: PositiveFloat = Field(
        default=300.0,
        description="A loop whose iteration takes longer while the database answers fails the liveness check of its "
        "service.",
    )
    health_port: PositiveInt | None = Field(
        default=None,
        description="Port that serves health alone, without TLS and without a token, from before the start until "
        "after the drain, as probes of Kubernetes need it.",
    )

    heartbeat_seconds: PositiveFloat = Field(
        default=10.0,
        le=15,
        description="Interval of a process's heartbeats. A change of log levels takes effect within this time.",
    )
    lease_seconds: PositiveFloat = Field(
        default=30.0,
        description="Duration of a lease, which is renewed after a third of it. The work of a process that died is "
        "taken over when its leases end.",
    )
    lookup_interval_seconds: PositiveFloat = Field(
        default=15.0, description="Interval between two lookups of a submission whose reply is lost."
    )
    lookup_apart_seconds: PositiveFloat = Field(
        default=60.0,
        description='"Not found" is believed only of two lookups that are this far apart. Shorter values risk a '
        "second bill.",
    )
    lookup_margin_seconds: PositiveFloat = Field(
        default=120.0,
        description='"Not found" is believed only if the later of the two lookups is this long after the submit '
        "timeout, counted from the send. Shorter values risk a second bill.",
    )
    lookup_limit_seconds: PositiveFloat = Field(
        default=3_600.0,
        description="How much longer lookups that the provider does not answer are repeated. Then the submission "
        "stays uncertain.",
    )
    lookups_per_account: PositiveInt = Field(
        default=100,
        description="A dispatcher that looks up this many submissions of a provider account submits nothing there "
        "until they are fewer.",
    )
    sweep_seconds: PositiveFloat = Field(default=1.0, description="Longest delay that a lost wake-up can cause.")
    poll_probe_seconds: PositiveFloat = Field(
        default=30.0,
        description="Interval between two polls at a provider account that refuses our credentials (401, 403).",
    )
    poll_pause_seconds: NonNegativeFloat = Field(
        default=86_400.0,
        description="How long deadlines of tasks are suspended while their provider account refuses our credentials.",
    )
    missing_poll_seconds: PositiveFloat = Field(
        default=300.0,
        description="Interval between two polls of a task that its provider does not know any more (404, 410).",
    )
    missing_believed_seconds: NonNegativeFloat = Field(
        default=600.0,
        description="For this long after a submit, a provider that does not know the task is not believed, and the "
        "task is polled at its usual interval.",
    )
    late_poll_first_seconds: PositiveFloat = Field(
        default=60.0,
        description="Time after which a task that was given up is first polled for a late result. The next poll is "
        "after twice the time that has passed, and so on.",
    )
    late_poll_longest_seconds: PositiveFloat = Field(
        default=3_600.0, description="Longest interval between two polls for a late result."
    )
    late_poll_seconds: NonNegativeFloat = Field(
        default=86_400.0, description="How long a task that was given up is polled for a late result."
    )
    submit_concurrency: PositiveInt = Field(
        default=200, description="Submits that one dispatcher has in progress concurrently."
    )
    store_concurrency: PositiveInt = Field(default=16, description="Results that one poller stores concurrently.")

    log_level: LogLevel = Field(
        default="info", validation_alias=_log_alias("LEVEL"), description="Lowest level of messages that are logged."
    )
    log_format: Literal["json", "pretty"] = Field(
        default="json",
        validation_alias=_log_alias("FORMAT"),
        description="Format of log lines: `json`, or `pretty` for people.",
    )
    log_prompts: bool = Field(default=False, description="Whether prompts may appear in logs and in the error log.")
    log_file_path: Path | None = Field(
        default=None, validation_alias=_log_alias("FILE_PATH"), description="File to which logs are also written."
    )
    log_file_max_size: str = Field(
        default="10M",
        validation_alias=_log_alias("FILE_MAX_SIZE"),
        description="Size at which the log file is rotated.",
    )
    log_file_max_files: PositiveInt = Field(
        default=7, validation_alias=_log_alias("FILE_MAX_FILES"), description="Rotated log files that are kept."
    )

    crash_at: str | None = Field(
        default=None, description="Fault tests only: the named point at which the process kills itself."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _certificates_are_whole(self) -> Self:
        for names in (
            ("internal_tls_certificate", "internal_tls_private_key", "internal_tls_ca"),
            ("gateway_tls_certificate", "gateway_tls_private_key"),
        ):
            if len({getattr(self, name) is None for name in names}) > 1:
                raise ValueError(f"{' and '.join(names)} go together: set all of them, or none")
        return self

    def grpc_port(self, service: ServiceName) -> int:
        """The port on which `service` serves gRPC."""
        return int(getattr(self, f"{service}_port"))

    def metrics_port(self, service: ServiceName) -> int:
        """The port on which `service` serves Prometheus text."""
        return int(getattr(self, f"{service}_metrics_port"))


def load() -> Settings:
    """The settings, after the files in the folder that DARKROOM_SECRETS names have been taken into the environment.

    A variable that is set goes before its file. Only regular files whose name begins with a letter are taken, as
    Kubernetes mounts them beside its own. Raises pydantic's ValidationError with all faults, and OSError for a file
    that cannot be read.
    """
    folder = os.environ.get("DARKROOM_SECRETS")
    if folder:
        for path in sorted(Path(folder).iterdir()):
            if path.name[:1].isalpha() and path.is_file():
                os.environ.setdefault(path.name, path.read_text().rstrip("\n"))
    return Settings()


def listed(text: str) -> tuple[str, ...]:
    """The words of a setting that holds several by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
