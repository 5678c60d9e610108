"""The peers of a gRPC server: which peers have authenticated calls, and which connections to reset."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from libs.common.rpc.shares import Holder
from libs.common.rpc.sockets import Endpoint, endpoint_of


@dataclass(slots=True)
class Caller:
    """A peer with authenticated calls: the key and the owner of its first call, and the number of calls in progress."""

    holder: Holder
    calls: int = 0


class Callers:
    """Records peers and requests to reset them.

    The event loop writes, with peers in gRPC's notation (`ipv4:192.0.2.1:5000`). The thread of `ConnectionWatch` reads.
    """

    def __init__(self) -> None:
        self._by_peer: dict[str, Caller] = {}
        self._to_reset: set[str] = set()

    @contextmanager
    def calling(self, peer: str, holder: Holder) -> Iterator[None]:
        """Count an authenticated call until the block ends."""
        caller = self._by_peer.get(peer)
        if caller is None:
            caller = self._by_peer.setdefault(peer, Caller(holder))
        caller.calls += 1
        try:
            yield
        finally:
            caller.calls -= 1

    def reset(self, peer: str) -> None:
        """Request that the connection of a peer is reset."""
        self._to_reset.add(peer)

    def by_endpoint(self) -> dict[Endpoint, Caller]:
        """Return the peers that have had authenticated calls."""
        return {endpoint: caller for peer, caller in list(self._by_peer.items()) if (endpoint := endpoint_of(peer))}

    def to_reset(self) -> set[Endpoint]:
        """Return the peers whose connections must be reset, and clear that set."""
        peers, self._to_reset = self._to_reset, set()
        return {endpoint for peer in peers if (endpoint := endpoint_of(peer))}

    def forget(self, known: Iterable[Endpoint], but: Container[Endpoint]) -> None:
        """Remove the peers of `known` that are not in `but`, because their connections have ended."""
        gone = {endpoint for endpoint in known if endpoint not in but}
        for peer in list(self._by_peer) if gone else ():
            if endpoint_of(peer) in gone:
                del self._by_peer[peer]
