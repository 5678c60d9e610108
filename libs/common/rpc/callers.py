"""The peers of a gRPC server: which have authenticated calls, and whose connections are to end."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from libs.common.rpc.shares import Holder
from libs.common.rpc.sockets import Endpoint, endpoint_of


@dataclass(slots=True)
class Caller:
    """A peer with authenticated calls: whose key they came with, and how many are in progress."""

    holder: Holder
    calls: int = 0


class Callers:
    """Both are noted by the event loop, with peers as gRPC names them, and read by the thread of the watch."""

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
        """Have the connection of a peer reset."""
        self._to_reset.add(peer)

    def by_endpoint(self) -> dict[Endpoint, Caller]:
        """Return all that have authenticated calls."""
        return {endpoint: caller for peer, caller in list(self._by_peer.items()) if (endpoint := endpoint_of(peer))}

    def to_reset(self) -> set[Endpoint]:
        """Return, once, whose connections are to be reset."""
        peers, self._to_reset = self._to_reset, set()
        return {endpoint for peer in peers if (endpoint := endpoint_of(peer))}

    def forget(self, known: Iterable[Endpoint], but: Container[Endpoint]) -> None:
        """Forget those of `known` whose connections have ended: that are not among `but`."""
        gone = {endpoint for endpoint in known if endpoint not in but}
        for peer in list(self._by_peer) if gone else ():
            if endpoint_of(peer) in gone:
                del self._by_peer[peer]
