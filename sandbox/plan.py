"""What a stack is made of: where its data lies, which ports it uses, and the environment of its services."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, get_args

from libs.common.settings import ServiceName, Settings
from sandbox.catalog import Adjust
from sandbox.processes import free_port

ROOT = Path(__file__).resolve().parent.parent
SHIPPED_CATALOG = ROOT / "catalog.yaml"
SHIPPED_ALERT_RULES = ROOT / "alerts.yaml"
FOLDER = Path(os.environ.get("DARKROOM_SANDBOX_FOLDER", ROOT / ".darkroom")).resolve()
"""Where the sandbox keeps all its data."""
SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)
_SANDBOX_PORTS = {"postgres": 54320, "object_store": 9000, "simulators": 9100}


@dataclass(frozen=True, slots=True)
class Ports:
    """All on the loopback interface."""

    postgres: int
    object_store: int
    simulators: int
    gateway_http: int
    grpc: Mapping[ServiceName, int]
    metrics: Mapping[ServiceName, int]

    @classmethod
    def fixed(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The ports of the design, each of which `DARKROOM_<NAME>_PORT` in the environment may move."""

        def of(name: str, default: int) -> int:
            return int(environment.get(f"DARKROOM_{name.upper()}_PORT", default))

        fields = Settings.model_fields
        return cls(
            **{name: of(f"sandbox_{name}", port) for name, port in _SANDBOX_PORTS.items()},
            gateway_http=of("gateway_http", fields["gateway_http_port"].default),
            grpc={name: of(name, fields[f"{name}_port"].default) for name in SERVICES},
            metrics={name: of(f"{name}_metrics", fields[f"{name}_metrics_port"].default) for name in SERVICES},
        )

    @classmethod
    def free(cls) -> Self:
        """Ports that nobody uses now, so that stacks can stand side by side."""
        return cls(
            **{name: free_port() for name in _SANDBOX_PORTS},
            gateway_http=free_port(),
            grpc={name: free_port() for name in SERVICES},
            metrics={name: free_port() for name in SERVICES},
        )

    def variables(self) -> dict[str, str]:
        """The settings that tell services their ports and each other's addresses."""
        return {
            **{f"DARKROOM_{name.upper()}_PORT": str(port) for name, port in self.grpc.items()},
            **{f"DARKROOM_{name.upper()}_METRICS_PORT": str(port) for name, port in self.metrics.items()},
            "DARKROOM_GATEWAY_HTTP_PORT": str(self.gateway_http),
            "DARKROOM_DISPATCHER_ADDRESS": f"127.0.0.1:{self.grpc['dispatcher']}",
            "DARKROOM_POLLER_ADDRESS": f"127.0.0.1:{self.grpc['poller']}",
            "DARKROOM_MONITOR_ADDRESS": f"127.0.0.1:{self.grpc['monitor']}",
            "DARKROOM_EXPERIMENTS_ADDRESS": f"127.0.0.1:{self.grpc['experiments']}",
            "DARKROOM_GATEWAY_ADDRESS": f"127.0.0.1:{self.grpc['gateway']}",
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """A stack to be.

    Args:
        folder: holds all of its data and logs.
        ports: where it listens.
        environment: the caller's own. DARKROOM_DATABASE_URL, DARKROOM_S3_ENDPOINT_URL and DARKROOM_CATALOG in it take
            the place of the embedded database, the embedded object store and the simulated providers.
        settings: further variables of the services.
        adjust: changes the simulated catalog.
        durable: False lets the embedded Postgres do without fsync, for tests.
        services: which of them to start.
        has_bucket: True spares looking for the bucket in an object store of the caller's own.
        schema: the revision that the database is brought to.
    """

    folder: Path
    ports: Ports
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    settings: Mapping[str, str] = field(default_factory=dict)
    adjust: Adjust | None = None
    durable: bool = True
    services: tuple[ServiceName, ...] = SERVICES
    has_bucket: bool = False
    schema: str = "head"

    @property
    def database_url(self) -> str | None:
        """The database of the caller's own, if one is named."""
        return self.environment.get("DARKROOM_DATABASE_URL") or None

    @property
    def object_store_url(self) -> str | None:
        """The object store of the caller's own, if one is named."""
        return self.environment.get("DARKROOM_S3_ENDPOINT_URL") or None

    @property
    def catalog(self) -> Path | None:
        """The catalog of real providers, if one is named."""
        named = self.environment.get("DARKROOM_CATALOG")
        return Path(named).resolve() if named else None

    def needed_ports(self) -> dict[str, int]:
        """Each port that must be free, by the variable that moves it."""
        own = {"postgres": self.database_url, "object_store": self.object_store_url, "simulators": self.catalog}
        return {
            **{
                f"DARKROOM_SANDBOX_{name.upper()}_PORT": getattr(self.ports, name)
                for name, replaced in own.items()
                if replaced is None
            },
            **{f"DARKROOM_{name.upper()}_PORT": self.ports.grpc[name] for name in self.services},
            **{f"DARKROOM_{name.upper()}_METRICS_PORT": self.ports.metrics[name] for name in self.services},
            **({"DARKROOM_GATEWAY_HTTP_PORT": self.ports.gateway_http} if "gateway" in self.services else {}),
        }
