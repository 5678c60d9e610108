"""The table of input images that were prepared and are kept in object storage for a while."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, Table, Text

from libs.common.database.schema.metadata import metadata, time

prepared_images = Table(
    "prepared_images",
    metadata,
    Column("object_key", Text, primary_key=True, comment="Where it lies in object storage; no two uploads share one."),
    Column("content_key", Text, nullable=False, comment="What images share of which the same was made: a SHA-256."),
    Column("content_type", Text, nullable=False, comment="Its media type, for instance image/jpeg."),
    Column("size_bytes", Integer, nullable=False, comment="Its size in bytes."),
    time("created_at", "When its upload began.", required=True, now=True),
    time("stored_at", "When it lay in object storage. NULL: not yet, or it is about to be removed from there."),
    time("expires_at", "Until when it is kept.", required=True),
    comment="Input images that were prepared and uploaded, until they expire.",
)
Index("ix_prepared_images_content", prepared_images.c.content_key, prepared_images.c.expires_at)
Index("ix_prepared_images_expiry", prepared_images.c.expires_at)
