"""What is written into the documentation, by the names that its pages use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from libs.common.catalog import Model, Provider
from libs.common.errors import MAPPINGS
from libs.common.settings import Settings
from sandbox.reference.fields import keys_table, settings_table
from sandbox.reference.metrics import database_metrics_table, process_metrics_table
from sandbox.reference.tables import table
from sandbox.simulators.behaviour import Behaviour, Fault, FaultKind
from services.gateway.rest.comments import comments

_CODE = "darkroom.common.v1.ErrorCode.ERROR_CODE_"


def _error_codes() -> str:
    """A table of the error codes. What each means is the comment of the proto, which clients read too."""
    meanings = comments()
    return table(
        ["code", "gRPC", "HTTP", "retryable", "meaning"],
        (
            (
                f"`{code}`",
                mapping.grpc_status.name,
                str(mapping.http_status.value),
                "yes" if mapping.is_retryable else "no",
                meanings[_CODE + code],
            )
            for code, mapping in MAPPINGS.items()
        ),
    )


def _fault_kinds() -> str:
    return table(["kind", "meaning"], ((f"`{kind}`", kind.meaning) for kind in FaultKind))


SECTIONS: Mapping[str, Callable[[], str]] = {
    "settings": lambda: settings_table(Settings),
    "metrics": process_metrics_table,
    "database metrics": database_metrics_table,
    "providers": lambda: keys_table(Provider, without={"id"}),
    "models": lambda: keys_table(Model, without={"identifier"}),
    "error codes": _error_codes,
    "behaviour": lambda: keys_table(Behaviour),
    "faults": lambda: keys_table(Fault),
    "fault kinds": _fault_kinds,
}
"""By the name of each section, what makes its content."""
