"""Starting processes beside gRPC."""

from __future__ import annotations

import os


def prepare() -> None:
    """Have gRPC leave forks alone. To be called before grpc is imported, by whoever starts processes and speaks gRPC.

    Its fork handlers run in the child between fork and exec, and have broken a Postgres there that was to be started.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
