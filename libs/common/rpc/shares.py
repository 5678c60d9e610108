"""Shares: how much of a bounded thing one address, API key or owner may hold at once."""

from __future__ import annotations

import heapq
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from operator import itemgetter
from time import monotonic
from typing import NamedTuple
from urllib.parse import unquote

import structlog

from libs.common import metrics
from libs.common.errors import ErrorCode, GenerationError

log = structlog.get_logger()

_RETRY_SECONDS = 5.0
_LOG_SECONDS = 60.0
_LOGGED_HOLDERS = 5
_NETWORKS_LIMIT = 8_192
_IPV6_PREFIX = 64


class Holder(NamedTuple):
    """Who holds something. An empty field has no share."""

    address: str = ""
    key: str = ""
    owner: str = ""


class Limits(NamedTuple):
    """How many at once: in all, and for one address, API key and owner. 0: no limit."""

    total: int = 0
    address: int = 0
    key: int = 0
    owner: int = 0


_NO_LIMITS = Limits()


class Shares:
    """Counts what is held at once, and refuses what is beyond a limit. For one event loop.

    Args:
        kind: for metrics, each of one instance in a process. Empty: not among them.
        what: what is held, as errors name it.
        limits: how many. Without them nothing is refused.
    """

    def __init__(self, kind: str = "", what: str = "", limits: Limits = _NO_LIMITS) -> None:
        self._kind = kind
        self._what = what
        self._limits = limits
        self._held: dict[tuple[str, str], int] = {}
        self.total = 0
        self._logged_at = -_LOG_SECONDS
        if kind:
            metrics.SHARES_HELD.labels(kind).set_function(lambda: self.total)
            # A rate needs a value from before the first refusal.
            for share in Limits._fields:
                metrics.SHARES_REFUSED.labels(kind, share)

    def take(self, holder: Holder, amount: int = 1) -> None:
        """Take an amount, which must be given back. Raises GenerationError RATE_LIMITED beyond a limit."""
        self._require_room(holder, amount)
        self.count(holder, amount)

    def count(self, holder: Holder, amount: int = 1) -> None:
        """Take an amount without checking the limits, for what cannot be refused any more; it must be given back."""
        held = self._held
        for share, name, _ in _of(holder, self._limits):
            held[share, name] = held.get((share, name), 0) + amount
        self.total += amount

    def _require_room(self, holder: Holder, amount: int) -> None:
        limits, held = self._limits, self._held
        if limits.total and self.total + amount > limits.total:
            raise self._refusal("total", limits.total, "")
        for share, name, limit in _of(holder, limits):
            if held.get((share, name), 0) + amount > limit:
                raise self._refusal(share, limit, f" of one {_WORDS[share]}")

    @property
    def holders(self) -> int:
        """How many addresses, keys and owners hold something."""
        return len(self._held)

    def give_back(self, holder: Holder, amount: int = 1) -> None:
        """Give back what was taken."""
        self.total -= amount
        for share, name, _ in _of(holder, self._limits):
            left = self._held[share, name] - amount
            if left:
                self._held[share, name] = left
            else:
                del self._held[share, name]

    @contextmanager
    def held(self, holder: Holder, amount: int = 1) -> Iterator[None]:
        """Hold an amount until the block ends. Raises GenerationError RATE_LIMITED beyond a limit."""
        self.take(holder, amount)
        try:
            yield
        finally:
            self.give_back(holder, amount)

    def _refusal(self, share: str, limit: int, whose: str) -> GenerationError:
        metrics.SHARES_REFUSED.labels(self._kind, share).inc()
        if share == "total":
            self._log_holders()
        return GenerationError(
            ErrorCode.RATE_LIMITED,
            f"Too many {self._what}{whose} at once: at most {limit:,}. End some, or try again later.",
            {"share": share, "limit": limit},
            retry_after_seconds=_RETRY_SECONDS,
        )

    def _log_holders(self) -> None:
        """Log who holds most, at most once in a while."""
        now = monotonic()
        if now - self._logged_at < _LOG_SECONDS:
            return
        self._logged_at = now
        most = heapq.nlargest(_LOGGED_HOLDERS, self._held.items(), key=itemgetter(1))
        log.warning(
            "a share is used up",
            kind=self._kind,
            held=self.total,
            most=[{"share": share, "holder": name, "held": held} for (share, name), held in most],
        )


_WORDS = {"address": "address", "key": "API key", "owner": "owner"}


def _of(holder: Holder, limits: Limits) -> list[tuple[str, str, int]]:
    """The shares that a holder has: which, whose, and how many."""
    found = []
    if limits.address and holder.address:
        found.append(("address", holder.address, limits.address))
    if limits.key and holder.key:
        found.append(("key", holder.key, limits.key))
    if limits.owner and holder.owner:
        found.append(("owner", holder.owner, limits.owner))
    return found


NOBODY = Holder()
_current: ContextVar[Holder] = ContextVar("holder", default=NOBODY)


def hold_as(*, key: str, owner: str) -> None:
    """Count what the rest of this call holds as this key's and owner's."""
    _current.set(Holder(key=key, owner=owner))


def current_holder() -> Holder:
    """Whose key this call came with, without an address; nobody's before a key was looked at."""
    return _current.get()


@lru_cache(_NETWORKS_LIMIT)
def network_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 network of an IPv6 address; else `host` as it is.

    A subscriber has at least a /64 (RFC 6177), so that its addresses are as good as one.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))


def network_of_peer(peer: str) -> str:
    """The same, of what gRPC calls a peer: `ipv4:192.0.2.1:5000`, `ipv6:%5B2001:db8::1%5D:5000`, `unix:…`."""
    family, _, rest = peer.partition(":")
    if family not in {"ipv4", "ipv6"}:
        return peer
    return network_of(unquote(rest.rpartition(":")[0]).strip("[]"))
