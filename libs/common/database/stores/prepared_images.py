"""Prepared images in object storage: found again by what they were made of, and removed when they have expired.

A row is there before its object is, and goes after it: so no object is ever forgotten.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from libs.common.database.engine import Database
from libs.common.database.stores.sets import statement

# So long after the last URL has ended, whoever reads the object has read it.
_GRACE_SECONDS = 3_600

# Finding one makes sure that it stays as long as it is needed.
_FIND = statement("""
UPDATE prepared_images SET expires_at = GREATEST(expires_at, now() + make_interval(secs => :seconds))
WHERE stored_at IS NOT NULL AND object_key = (
    SELECT object_key FROM prepared_images
    WHERE content_key = :content_key AND stored_at IS NOT NULL AND expires_at > now()
    ORDER BY expires_at DESC LIMIT 1)
RETURNING object_key""")
_BEGIN = statement("""
INSERT INTO prepared_images (object_key, content_key, content_type, size_bytes, expires_at)
VALUES (:object_key, :content_key, :content_type, :size_bytes, now() + make_interval(secs => :seconds))""")
_STORED = statement("UPDATE prepared_images SET stored_at = now() WHERE object_key = :object_key")
_EXPIRED = statement("""
UPDATE prepared_images SET stored_at = NULL
WHERE object_key IN (
    SELECT object_key FROM prepared_images
    WHERE expires_at < now() - make_interval(secs => :grace_seconds)
    ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING object_key""")
_REMOVED = statement("DELETE FROM prepared_images WHERE object_key = ANY(:object_keys) AND stored_at IS NULL")


@dataclass(frozen=True, slots=True)
class NewPreparedImage:
    """An image that is about to be uploaded, to be kept for so many `seconds`."""

    object_key: str
    content_key: str
    content_type: str
    size_bytes: int
    seconds: int


class PreparedImageStore:
    """Reads and writes of prepared images."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, content_key: str, *, seconds: int) -> str | None:
        """The object that was made of the same, which is kept for `seconds` more at least. None: there is none."""
        values = {"content_key": content_key, "seconds": seconds}
        return await self._database.transaction(
            "find_prepared_image", lambda connection: connection.execute(_FIND, values).scalar_one_or_none()
        )

    async def begin(self, image: NewPreparedImage) -> None:
        """Write down that an object will be there."""
        await self._database.transaction(
            "begin_prepared_image", lambda connection: connection.execute(_BEGIN, asdict(image)).close()
        )

    async def stored(self, object_key: str) -> None:
        """Write down that it is there."""
        values = {"object_key": object_key}
        await self._database.transaction(
            "prepared_image_stored", lambda connection: connection.execute(_STORED, values).close()
        )

    async def expired(self, limit: int) -> list[str]:
        """Objects that are to be removed, at most `limit`; nobody finds them any more."""
        values = {"limit": limit, "grace_seconds": _GRACE_SECONDS}
        return await self._database.transaction(
            "expired_prepared_images", lambda connection: list(connection.execute(_EXPIRED, values).scalars())
        )

    async def removed(self, object_keys: list[str]) -> None:
        """Forget objects that are gone."""
        values = {"object_keys": object_keys}
        await self._database.transaction(
            "prepared_images_removed", lambda connection: connection.execute(_REMOVED, values).close()
        )
