"""Makes calls over gRPC and resets each at once, without an end; a connection that is closed is opened again."""

from __future__ import annotations

import argparse
import socket
import threading
from contextlib import suppress
from itertools import count

from tests.fuzz import frames

CONNECTIONS = 3
_CALLS = 200


def flood(port: int, path: bytes, key: bytes, message: bytes | None) -> None:
    """Open a connection and send calls, until it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        threading.Thread(target=_read_all, args=(connection,), daemon=True).start()
        for first in count(1, 2 * _CALLS):
            connection.sendall(frames.cancelled(path, _CALLS, first=first, key=key, message=message))


def _read_all(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(65_536):
            pass


def _for_ever(port: int, path: bytes, key: bytes, message: bytes | None) -> None:
    while True:
        with suppress(OSError):
            flood(port, path, key, message)


def main() -> None:
    """Flood with as many connections as `CONNECTIONS`, until the process is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--key", default="")
    parser.add_argument("--without-message", action="store_true")
    given = parser.parse_args()
    message = None if given.without_message else b""
    for _ in range(CONNECTIONS):
        threading.Thread(target=_for_ever, args=(given.port, given.path.encode(), given.key.encode(), message)).start()


if __name__ == "__main__":
    main()
