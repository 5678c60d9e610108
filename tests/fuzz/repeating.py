"""Repeats one GET request for ever on several connections, and discards what is answered."""

from __future__ import annotations

import argparse
import http.client
import threading
from contextlib import suppress


def repeat(port: int, path: str, key: str, begun: threading.Event) -> None:
    """Repeat it on one connection after another."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with suppress(OSError, http.client.HTTPException):
            while True:
                connection.request("GET", path, headers={"x-api-key": key})
                begun.set()
                connection.getresponse().read()
        connection.close()


def main() -> None:
    """Print a line when it has begun, and go on until the process is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("key")
    parser.add_argument("count", type=int)
    given = parser.parse_args()
    begun = threading.Event()
    for _ in range(given.count):
        threading.Thread(target=repeat, args=(given.port, given.path, given.key, begun)).start()
    begun.wait()
    print("begun", flush=True)


if __name__ == "__main__":
    main()
