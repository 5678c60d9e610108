"""The gateway as a client of itself: REST goes the way of every RPC, over a socket that nobody else reaches."""

from __future__ import annotations

import tempfile
from pathlib import Path

import grpc

from libs.common import tracing

_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class OwnServer:
    """A private address for the gRPC server, and a channel to it."""

    def __init__(self) -> None:
        # Of mode 0700: the socket in it is for this user alone.
        self._folder = tempfile.TemporaryDirectory(prefix="darkroom-gateway-", ignore_cleanup_errors=True)
        self.address = f"unix:{Path(self._folder.name) / 'own.sock'}"
        self.channel = grpc.aio.insecure_channel(
            self.address, options=_OPTIONS, interceptors=tracing.client_interceptors()
        )

    async def close(self) -> None:
        """Close the channel, and remove the socket."""
        await self.channel.close()
        self._folder.cleanup()
