"""Certificates that were renewed: gRPC shows those that it has read at the start, so a service starts anew."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from libs.common.settings import Settings

log = structlog.get_logger()


class CertificateWatch:
    """Looks at the files of the certificates that the settings name.

    Args:
        settings: name the files, and within how long services that share an issuer start anew one after the other.
        stop: ends this process in good order; whoever keeps it running starts it again.
    """

    def __init__(self, settings: Settings, stop: Callable[[], None]) -> None:
        named = (
            settings.internal_tls_certificate,
            settings.internal_tls_private_key,
            settings.internal_tls_ca,
            settings.gateway_tls_certificate,
            settings.gateway_tls_private_key,
        )
        self._files = [path for path in named if path is not None]
        self._spread_seconds = settings.certificate_spread_seconds
        self._stop = stop
        self._seen = _digest(self._files)
        self._told = False

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._files)

    async def look(self) -> bool:
        """A loop's turn: told once, the process stops at some moment of the spread."""
        if self._told or await asyncio.to_thread(_digest, self._files) == self._seen:
            return False
        self._told = True
        wait_seconds = random.uniform(0.0, self._spread_seconds)
        log.info("certificates were renewed: starting anew", wait_seconds=round(wait_seconds))
        asyncio.get_running_loop().call_later(wait_seconds, self._stop)
        return False


def _digest(files: Sequence[Path]) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).digest()
