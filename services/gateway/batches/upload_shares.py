"""The shares of owners and API keys in uploads: how many are in progress at once, and how many bytes are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from libs.common.errors import ErrorCode, GenerationError
from libs.common.settings import Settings
from services.gateway.access import Caller

_RETRY_SECONDS = 5.0
Name = tuple[str, str]


class UploadShares:
    """Counts what callers have in progress in this gateway. A key may have half of what its owner may.

    Args:
        at_once: how many uploads an owner may have in progress.
        stored_bytes: how many bytes of batches that are not committed yet may be stored for an owner.
    """

    def __init__(self, *, at_once: int, stored_bytes: int) -> None:
        self._uploads = _Share("uploads in progress", at_once)
        self._stored = _Share("bytes of uploads stored", stored_bytes)

    @classmethod
    def from_settings(cls, settings: Settings) -> UploadShares:
        """The shares that the settings name."""
        return cls(at_once=settings.uploads_per_owner, stored_bytes=settings.upload_bytes_per_owner)

    @contextmanager
    def turn_of(self, caller: Caller) -> Iterator[None]:
        """Count one upload until the block ends. RATE_LIMITED for one too many."""
        self._uploads.take(caller, 1)
        try:
            yield
        finally:
            self._uploads.release(caller, 1)

    def storage_of(self, caller: Caller) -> StorageShare:
        """A count of what one batch has stored, which is empty."""
        return StorageShare(self._stored, caller)


class StorageShare:
    """What one batch upload has stored."""

    def __init__(self, share: _Share, caller: Caller) -> None:
        self._share = share
        self._caller = caller
        self._size_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Count what is about to be stored. RATE_LIMITED where it is too much for the key or its owner."""
        self._share.take(self._caller, size_bytes)
        self._size_bytes += size_bytes

    def release(self) -> None:
        """Count nothing more of this batch: its parts are gone."""
        self._share.release(self._caller, self._size_bytes)
        self._size_bytes = 0


class _Share:
    """An amount by owner and by key. `what`: what is counted."""

    def __init__(self, what: str, of_owner: int) -> None:
        self._what = what
        self._limits = {"owner": of_owner, "key": max(1, of_owner // 2)}
        self._used: Counter[Name] = Counter()

    def take(self, caller: Caller, amount: int) -> None:
        for name in _names(caller):
            limit = self._limits[name[0]]
            if self._used[name] + amount > limit:
                raise GenerationError(
                    ErrorCode.RATE_LIMITED,
                    f"This {'API key' if name[0] == 'key' else name[0]} may have {limit:,} {self._what} at once.",
                    {"share": self._what, "limit": limit, "used": self._used[name], "share_of": name[0]},
                    retry_after_seconds=_RETRY_SECONDS,
                )
        for name in _names(caller):
            self._used[name] += amount

    def release(self, caller: Caller, amount: int) -> None:
        for name in _names(caller):
            self._used[name] -= amount
            if self._used[name] <= 0:
                del self._used[name]


def _names(caller: Caller) -> tuple[Name, Name]:
    return ("key", caller.key_id), ("owner", caller.owner)
