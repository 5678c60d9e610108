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
        default=None, description="A folder whose files are further variables, each of the name and value of one."
    )
    database_url: SecretStr = Field(description="A Postgres URL for SQLAlchemy, for instance postgresql+psycopg2://…")
    database_pool_size: PositiveInt = Field(default=8, description="Connections and threads of one service.")
    database_statement_timeout_seconds: PositiveFloat = 30.0

    database_replica_url: SecretStr | None = Field(
        default=None, description="A standby that statistics are read of. None: they are read of the primary."
    )
    database_replica_lag_seconds: PositiveFloat = Field(
        default=60.0, description="A standby that is further behind is not read."
    )

    s3_endpoint_url: str | None = Field(default=None, description="None: Amazon's own.")
    s3_bucket: str = "darkroom"
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = Field(default=None, description="None: boto3's usual chain.")
    s3_secret_access_key: SecretStr | None = None
    s3_public_base_url: str | None = Field(default=None, description="Set: results are read from here, unsigned.")
    s3_presigned_url_seconds: PositiveInt = Field(default=86_400, le=604_800)
    storage_threads: PositiveInt = 8
    download_limit_bytes: PositiveInt = Field(default=2 * 1024**3, description="The largest result taken.")
    download_timeout_seconds: PositiveFloat = 300.0

    image_workers: NonNegativeInt = Field(
        default=0,
        description="Processes of one service that decode input images. 0: as many as it has processors and memory.",
    )
    image_isolation: Literal["best_effort", "required"] = Field(
        default="best_effort",
        description="required: a service with image workers does not start where the kernel lacks one of their "
        "protections. best_effort: it logs what is missing.",
    )
    image_memory_bytes: PositiveInt = Field(default=1_500_000_000, description="Address space of one of them.")
    image_cpu_seconds: PositiveInt = Field(default=20, description="Processor time that one image may take.")
    image_limit_bytes: PositiveInt = Field(default=30_000_000, description="The largest input image taken.")
    image_limit_pixels: PositiveInt = Field(default=64_000_000, description="And the most pixels that it may have.")
    image_fetch_seconds: PositiveFloat = Field(default=30.0, description="What an input image's host gets for it.")
    image_cache_bytes: PositiveInt = Field(
        default=64 * 1024**2, description="Prepared images that a service keeps in memory, and as many fetched ones."
    )
    image_kept_bytes_per_owner: PositiveInt = Field(
        default=10 * 1024**3,
        description="Bytes of an owner's images that one gateway keeps for PreprocessImage on one day (UTC).",
    )
    image_waiting: PositiveInt = Field(default=32, description="Calls of PreprocessImage that may wait for a worker.")
    image_allowed_hosts: str = Field(
        default="",
        description="Hosts, by commas, that input images may come from though they are not public.",
    )

    catalog: Path = Path("catalog.yaml")
    catalog_check_seconds: PositiveFloat = Field(default=2.0, description="How often the file is looked at.")

    bind_host: str = "127.0.0.1"
    gateway_port: int = 50051
    dispatcher_port: int = 50052
    poller_port: int = 50053
    monitor_port: int = 50054
    experiments_port: int = 50055
    gateway_metrics_port: int = 9101
    dispatcher_metrics_port: int = 9102
    poller_metrics_port: int = 9103
    monitor_metrics_port: int = 9104
    experiments_metrics_port: int = 9105
    gateway_http_port: int = Field(default=8080, description="Where REST, the OpenAI face and webhooks come in.")
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Where providers reach the gateway's HTTP port. None: they are asked for no webhooks.",
    )
    key_secret: SecretStr | None = Field(
        default=None, min_length=32, description="What API keys are hashed and callbacks are signed with."
    )
    admin_key: SecretStr | None = Field(
        default=None, min_length=24, max_length=200, description="The first admin key. None: none is made."
    )
    key_cache_seconds: PositiveFloat = Field(default=5.0, description="How long a revoked key may still be believed.")
    wrong_key_delay_seconds: NonNegativeFloat = Field(
        default=2.0, description="The longest that the answer to a wrong key is kept back, for who sends many."
    )
    service_token: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="What services show each other without certificates. Several by commas: the first is shown.",
    )
    internal_tls_certificate: Path | None = Field(default=None, description="Mutual TLS between services.")
    internal_tls_private_key: Path | None = None
    internal_tls_ca: Path | None = Field(default=None, description="Who signs the certificates of services.")
    certificate_check_seconds: PositiveFloat = Field(
        default=60.0, description="How often certificates are looked at: a service that was given others starts anew."
    )
    certificate_spread_seconds: NonNegativeFloat = Field(
        default=300.0, description="Services that were given others at once start anew within so long, not at once."
    )
    gateway_tls_certificate: Path | None = Field(default=None, description="TLS of the gateway's two ports.")
    gateway_tls_private_key: Path | None = None

    cors_origins: str = Field(default="", description="Origins that browsers may call from, by commas; * for all.")
    http_body_limit_bytes: PositiveInt = 16 * 1024**2
    upload_limit_bytes: PositiveInt = Field(
        default=512 * 1024**2, description="The largest batch that is taken as JSONL; a line as a body."
    )
    upload_timeout_seconds: PositiveFloat = Field(default=900.0, description="What all of an uploaded batch gets.")
    uploads_per_owner: PositiveInt = Field(
        default=8, description="Uploads of an owner in progress at once in one gateway; of a key half as many."
    )
    upload_bytes_per_owner: PositiveInt = Field(
        default=2 * 1024**3,
        description="Bytes of an owner's batches that one gateway stores before their commit; of a key half as many.",
    )
    http_header_timeout_seconds: PositiveFloat = Field(default=10.0, description="What a client gets for its headers.")
    http_body_timeout_seconds: PositiveFloat = Field(default=30.0, description="What a client gets for its body.")
    http_connections: PositiveInt = Field(default=2_000, description="Connections to the HTTP port at once.")
    http_connections_per_address: NonNegativeInt = Field(
        default=1_000, description="And of one address. 0: no bound, for use behind a proxy."
    )
    http_requests_per_key: PositiveInt = Field(default=500, description="HTTP requests of one key at once.")
    http_requests_per_owner: PositiveInt = Field(default=1_000, description="And of one owner.")
    openai_wait_seconds: PositiveFloat = Field(default=120.0, description="What an image gets before a 504.")
    watch_interval_seconds: PositiveFloat = Field(default=0.1, description="Between two looks for all watchers.")
    watch_write_timeout_seconds: PositiveFloat = Field(
        default=15.0, description="A watcher or a download that is slower is dropped."
    )
    callback_concurrency: PositiveInt = Field(default=50, description="Callbacks under way in one poller.")
    callback_timeout_seconds: PositiveFloat = 15.0
    callback_allowed_hosts: str = Field(
        default="", description="Hosts, by commas, that callbacks may go to though their addresses are not public."
    )
    spend_labels: str = Field(default="", description="Keys of labels, by commas, that the spend is counted by.")

    dispatcher_address: str = "127.0.0.1:50052"
    poller_address: str = "127.0.0.1:50053"
    monitor_address: str = "127.0.0.1:50054"
    experiments_address: str = "127.0.0.1:50055"
    gateway_address: str = Field(default="127.0.0.1:50051", description="Where the monitor looks for the gateway.")

    alert_rules: Path = Field(default=Path("alerts.yaml"), description="What wakes whom; read by the monitor.")
    console_url: str | None = Field(
        default=None, pattern=r"^https?://\S+$", description="Where people reach the console; alerts link to it."
    )
    console_session_seconds: PositiveFloat = Field(default=43_200.0, description="How long one is signed in at most.")
    console_idle_seconds: PositiveFloat = Field(default=3_600.0, description="And how long without a look at a page.")
    console_live_seconds: PositiveFloat = Field(default=2.0, description="Between two looks for a page that is live.")
    audit_days: PositiveInt = Field(default=400, description="How long is kept who pressed what in the console.")
    health_check_seconds: PositiveFloat = Field(default=3.0, description="Between two looks at all components.")
    error_warn_days: PositiveInt = Field(default=7, description="How long warnings stay in the error log.")
    error_error_days: PositiveInt = Field(default=30, description="How long errors do.")
    error_critical_days: PositiveInt = Field(default=90, description="How long critical errors do.")
    generation_days: PositiveInt | None = Field(
        default=None,
        description="How long generations are kept, and all about them, to the month. None: for ever.",
    )
    at_risk_days: PositiveInt = Field(
        default=7,
        description="After how many days money at risk that nobody resolved is counted as spent.",
    )
    alert_days: PositiveInt = Field(default=365, description="How long alerts are kept that were resolved.")
    error_buffer_entries: PositiveInt = Field(
        default=10_000, description="Errors that a process keeps while the monitor is away; later ones are counted."
    )
    error_buffer_bytes: PositiveInt = Field(default=16 * 1024**2, description="And how large they may be together.")

    experiment_refresh_seconds: PositiveFloat = Field(
        default=1.0, description="How soon a gateway knows of an experiment that starts, pauses or changes its shares."
    )
    experiment_stale_seconds: PositiveFloat = Field(
        default=60.0, description="Without news of the experiments for so long, requests run without them."
    )
    experiment_adapt_seconds: PositiveFloat = Field(
        default=60.0, description="Between two looks at guardrails, shares that adapt, and ends."
    )

    grpc_message_limit_bytes: PositiveInt = 16 * 1024**2
    grpc_concurrent_rpcs: PositiveInt = Field(
        default=5_000, description="Unary RPCs of one service at once; half of them of one owner."
    )
    grpc_message_seconds: PositiveFloat = Field(default=30.0, description="What a client gets for an RPC's message.")
    grpc_connections: PositiveInt = Field(
        default=2_000,
        description="Connections to a gRPC port at once; half of them of one owner, a quarter of one key.",
    )
    grpc_connections_per_address: NonNegativeInt = Field(
        default=1_000, description="And of one address. 0: no bound, for use behind a proxy."
    )
    request_bytes: PositiveInt = Field(
        default=256 * 1024**2,
        description="Bytes of requests that a service holds at once, of gRPC and of HTTP each; half of them of one "
        "owner, a quarter of one key.",
    )
    grpc_reflection: bool = Field(default=True, description="Whether the ports serve server reflection.")
    streams: PositiveInt = Field(default=3_000, description="Open gRPC streams of one service at once.")
    streams_per_key: PositiveInt = Field(default=1_000, description="Of one key.")
    streams_per_owner: PositiveInt = Field(default=1_500, description="Of one owner.")
    streams_per_address: NonNegativeInt = Field(
        default=2_000, description="Of one address. 0: no bound, for use behind a proxy."
    )
    keyless_streams: PositiveInt = Field(
        default=500, description="Open gRPC streams that need no key, health and reflection, at once."
    )
    keyless_streams_per_address: NonNegativeInt = Field(default=100, description="Of one address. 0: no bound.")
    keyless_stream_seconds: PositiveFloat = Field(default=600.0, description="After so long, one of them is ended.")
    grpc_concurrent_streams: PositiveInt = Field(default=100, description="RPCs on one connection at once.")
    rpc_timeout_seconds: PositiveFloat = Field(default=30.0, description="The most that a unary RPC may take.")
    drain_seconds: PositiveFloat = Field(default=20.0, description="What in-flight work gets before it is given back.")
    submit_drain_seconds: PositiveFloat = Field(
        default=120.0, description="What submits under way get at a stop; one that is cut off has an uncertain outcome."
    )
    drain_delay_seconds: NonNegativeFloat = Field(
        default=0.0, description="At a stop, how long a service that says it is not ready still takes what comes."
    )
    readiness_check_seconds: PositiveFloat = Field(default=2.0, description="Between two looks at the database.")
    stuck_seconds: PositiveFloat = Field(
        default=300.0, description="A loop whose turn takes so long with the database there costs the liveness."
    )
    health_port: PositiveInt | None = Field(
        default=None, description="A port that answers for health alone and without TLS, as Kubernetes asks."
    )

    heartbeat_seconds: PositiveFloat = Field(
        default=10.0, le=15, description="How often a process says that it runs; a change of log levels takes so long."
    )
    lease_seconds: PositiveFloat = Field(default=30.0, description="A claim's life; renewed at a third of it.")
    lookup_interval_seconds: PositiveFloat = Field(
        default=15.0, description="Between two lookups of a submission whose reply is lost."
    )
    lookup_apart_seconds: PositiveFloat = Field(
        default=60.0, description="How far apart two lookups must be that find nothing, for that to be believed."
    )
    lookup_margin_seconds: PositiveFloat = Field(
        default=120.0,
        description="How long after a submit's timeout, counted from its send, the later of the two must be.",
    )
    lookup_limit_seconds: PositiveFloat = Field(
        default=3_600.0, description="How much longer lookups are repeated that the provider does not answer."
    )
    lookups_per_account: PositiveInt = Field(
        default=100,
        description="A dispatcher that looks up so many submissions of a provider account submits nothing there.",
    )
    sweep_seconds: PositiveFloat = Field(default=1.0, description="The longest that a lost wake-up can delay.")
    poll_probe_seconds: PositiveFloat = Field(
        default=30.0, description="Between two checks at a provider account that refuses our credentials."
    )
    poll_pause_seconds: NonNegativeFloat = Field(
        default=86_400.0, description="How long deadlines of tasks stand still while their account is refused."
    )
    missing_poll_seconds: PositiveFloat = Field(
        default=300.0, description="Between two checks of a task that its provider does not know any more."
    )
    missing_believed_seconds: NonNegativeFloat = Field(
        default=600.0, description="After a submit, how long a provider that does not know its task is not believed."
    )
    late_poll_first_seconds: PositiveFloat = Field(
        default=60.0, description="When a task that was given up is first checked for a late result; then more rarely."
    )
    late_poll_longest_seconds: PositiveFloat = Field(
        default=3_600.0, description="The longest wait between two checks for a late result."
    )
    late_poll_seconds: NonNegativeFloat = Field(
        default=86_400.0, description="How long a task that was given up is checked for a late result."
    )
    submit_concurrency: PositiveInt = Field(default=200, description="Submits under way in one dispatcher.")
    store_concurrency: PositiveInt = Field(default=16, description="Results on their way into storage in one poller.")

    log_level: LogLevel = Field(default="info", validation_alias=_log_alias("LEVEL"))
    log_format: Literal["json", "pretty"] = Field(default="json", validation_alias=_log_alias("FORMAT"))
    log_prompts: bool = Field(default=False, description="Whether prompts may stand in logs and in the error log.")
    log_file_path: Path | None = Field(default=None, validation_alias=_log_alias("FILE_PATH"))
    log_file_max_size: str = Field(default="10M", validation_alias=_log_alias("FILE_MAX_SIZE"))
    log_file_max_files: PositiveInt = Field(default=7, validation_alias=_log_alias("FILE_MAX_FILES"))

    crash_at: str | None = Field(default=None, description="Fault tests only: the named point at which to die.")

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
