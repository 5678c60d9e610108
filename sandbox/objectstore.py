"""A real S3 API on loopback from a wheel: `rclone serve s3`. Buckets are folders, objects are plain files in them."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from sandbox.children import Child


class ObjectServer:
    """One server.

    Args:
        folder: holds everything: objects and keys.
        port: on the loopback interface.
        log: its log file.
    """

    def __init__(self, folder: Path, port: int, *, log: Path) -> None:
        self._folder = folder.resolve()
        self._log = log
        self.port = port
        self.endpoint_url = f"http://127.0.0.1:{port}"

    @property
    def keys(self) -> tuple[str, str]:
        """The access key's id and its secret, made at the first call."""
        path = self._folder / "keys"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(f"darkroom-{secrets.token_hex(4)} {secrets.token_hex(20)}")
        key, secret = path.read_text().split()
        return key, secret

    def child(self) -> Child:
        """The server's process, not started yet."""
        (self._folder / "buckets").mkdir(parents=True, exist_ok=True)
        return Child(
            "object store",
            [
                Path(sys.executable).parent / "rclone",
                "serve",
                "s3",
                "--addr",
                f"127.0.0.1:{self.port}",
                self._folder / "buckets",
            ],
            # Keys go by the environment, for every user of the machine can read command lines. It is read as CSV.
            environment={
                "RCLONE_AUTH_KEY": '"' + ",".join(self.keys) + '"',
                "RCLONE_CONFIG": "",
                "HOME": str(self._folder),
            },
            log=self._log,
        )

    def make_bucket(self, name: str) -> None:
        """Make a bucket where it is missing."""
        (self._folder / "buckets" / name).mkdir(parents=True, exist_ok=True)
