"""Sends the content of a file on several connections. Each is held until it is closed, and is then opened again.

With --close each is closed as soon as the content is sent.

A second file holds what is sent before, half a second earlier: for instance a call with a key.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

_CONNECTIONS = 20
_PAUSE_SECONDS, _CLOSE_SECONDS = 0.5, 0.02


def flood(port: int, content: bytes, first: bytes, begun: threading.Event, *, closes: bool) -> None:
    """Send the contents on one connection after another, for ever."""
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
            begun.set()
            reading = threading.Thread(target=_read_all, args=(connection,), daemon=True)
            reading.start()
            if first:
                connection.sendall(first)
                time.sleep(_PAUSE_SECONDS)
            connection.sendall(content)
            if closes:
                time.sleep(_CLOSE_SECONDS)
            else:
                reading.join()


def _read_all(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(65_536):
            pass


def main() -> None:
    """Print a line when the flood has begun, and flood until the process is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("first", type=Path, nargs="?")
    parser.add_argument("--close", action="store_true")
    given = parser.parse_args()
    content, first = given.file.read_bytes(), given.first.read_bytes() if given.first else b""
    begun = threading.Event()
    for _ in range(_CONNECTIONS):
        arguments, options = (given.port, content, first, begun), {"closes": given.close}
        threading.Thread(target=flood, args=arguments, kwargs=options).start()
    begun.wait()
    print("begun", flush=True)


if __name__ == "__main__":
    main()
