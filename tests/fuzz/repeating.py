"""Repeats one HTTP request for ever on several connections, and discards the responses.

It is a GET, or a POST if there is a body.
"""

from __future__ import annotations

import argparse
import http.client
import threading
from contextlib import suppress


def repeat(port: int, path: str, key: str, body: str, begun: threading.Event) -> None:
    """Repeat it on one connection after another."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with suppress(OSError, http.client.HTTPException):
            while True:
                headers = {"x-api-key": key, "content-type": "application/json"}
                connection.request("POST" if body else "GET", path, body or None, headers)
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
    parser.add_argument("body", nargs="?", default="")
    given = parser.parse_args()
    begun = threading.Event()
    for _ in range(given.count):
        threading.Thread(target=repeat, args=(given.port, given.path, given.key, given.body, begun)).start()
    begun.wait()
    print("begun", flush=True)


if __name__ == "__main__":
    main()
