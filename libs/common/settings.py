"""Every setting of every service, in one class, read from the environment.

Names start with `DARKROOM_`; the log settings also answer to `LOG_…`. Nothing else reads the environment, except
that the catalog names the variables that hold the providers' credentials.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ServiceName = Literal["gateway", "dispatcher", "poller", "monitor", "experiments"]


def _log_alias(name: str) -> AliasChoices:
    return AliasChoices(f"DARKROOM_LOG_{name}", f"LOG_{name}")


class Settings(BaseSettings):
    """What an operator may set. Durations are in seconds, sizes in bytes unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="DARKROOM_", frozen=True)

    database_url: SecretStr = Field(description="A Postgres URL for SQLAlchemy, for instance postgresql+psycopg2://…")
    database_pool_size: PositiveInt = Field(default=8, description="Connections and threads of one service.")
    database_statement_timeout_seconds: PositiveFloat = 30.0

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
    gateway_http_port: int = Field(default=8080, description="Where providers' webhooks come in.")
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Where providers reach the gateway's HTTP port. None: they are asked for no webhooks.",
    )
    dispatcher_address: str = "127.0.0.1:50052"
    poller_address: str = "127.0.0.1:50053"

    grpc_message_limit_bytes: PositiveInt = 16 * 1024**2
    grpc_concurrent_rpcs: PositiveInt = 2_000
    rpc_timeout_seconds: PositiveFloat = Field(default=30.0, description="The most that a unary RPC may take.")
    drain_seconds: PositiveFloat = Field(default=20.0, description="What in-flight work gets before it is given back.")
    submit_drain_seconds: PositiveFloat = Field(
        default=120.0, description="What submits under way get at a stop; one that is cut off has an uncertain outcome."
    )
    readiness_check_seconds: PositiveFloat = Field(default=2.0, description="Between two looks at the database.")

    lease_seconds: PositiveFloat = Field(default=30.0, description="A claim's life; renewed at a third of it.")
    sweep_seconds: PositiveFloat = Field(default=1.0, description="The longest that a lost nudge can delay.")
    submit_concurrency: PositiveInt = Field(default=200, description="Submits under way in one dispatcher.")
    store_concurrency: PositiveInt = Field(default=16, description="Results on their way into storage in one poller.")

    log_level: Literal["trace", "debug", "info", "warn", "error", "fatal"] = Field(
        default="info", validation_alias=_log_alias("LEVEL")
    )
    log_format: Literal["json", "pretty"] = Field(default="json", validation_alias=_log_alias("FORMAT"))
    log_file_path: Path | None = Field(default=None, validation_alias=_log_alias("FILE_PATH"))
    log_file_max_size: str = Field(default="10M", validation_alias=_log_alias("FILE_MAX_SIZE"))
    log_file_max_files: PositiveInt = Field(default=7, validation_alias=_log_alias("FILE_MAX_FILES"))

    crash_at: str | None = Field(default=None, description="Fault tests only: the named point at which to die.")

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    def grpc_port(self, service: ServiceName) -> int:
        """The port on which `service` serves gRPC."""
        return int(getattr(self, f"{service}_port"))

    def metrics_port(self, service: ServiceName) -> int:
        """The port on which `service` serves Prometheus text."""
        return int(getattr(self, f"{service}_metrics_port"))
