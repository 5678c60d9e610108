"""Lists of hosts, as the catalog has them."""

from __future__ import annotations

from collections.abc import Sequence


def is_listed(host: str, hosts: Sequence[str]) -> bool:
    """Whether `host` is one of `hosts`, or below one that begins with a dot."""
    host = host.lower().rstrip(".")
    return any(host.endswith(name.lower()) if name.startswith(".") else host == name.lower() for name in hosts)
