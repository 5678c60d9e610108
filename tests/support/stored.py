"""Files of generations, exchanged for what a test needs."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache

import av

from libs.common.database.engine import Database
from libs.common.settings import Settings
from libs.common.storage.objects import ObjectStore
from tests.support.rows import execute, opened, rows
from tests.support.running import Running


async def exchange(running: Running, generation_id: str, content: bytes) -> None:
    """Make `content` the file of a generation that has one."""
    environment = running.stack.environment
    async with opened(environment["DARKROOM_DATABASE_URL"]) as database:
        key = await _key_of(database, generation_id)
        objects = ObjectStore(
            Settings(
                database_url=environment["DARKROOM_DATABASE_URL"],
                s3_endpoint_url=environment["DARKROOM_S3_ENDPOINT_URL"],
                s3_access_key_id=environment["DARKROOM_S3_ACCESS_KEY_ID"],
                s3_secret_access_key=environment["DARKROOM_S3_SECRET_ACCESS_KEY"],
            )
        )
        try:
            await objects.put_file(key, io.BytesIO(content), "video/mp4")
        finally:
            await objects.close()
        sql = """UPDATE generation_requests SET outputs = jsonb_set(jsonb_set(outputs,
            '{0,size_bytes}', to_jsonb(:size)), '{0,sha256}', to_jsonb(CAST(:digest AS text))) WHERE id = :id"""
        digest = hashlib.sha256(content).hexdigest()
        await execute(database, sql, size=len(content), digest=digest, id=generation_id)


async def _key_of(database: Database, generation_id: str) -> str:
    (row,) = await rows(database, "SELECT outputs FROM generation_requests WHERE id = :id", id=generation_id)
    return str(row["outputs"][0]["object_key"])


@lru_cache(maxsize=1)
def long_video() -> bytes:
    """Two minutes of MP4 in which each second looks another way: some megabytes, with the index last."""
    width, height, rate, seconds = 320, 176, 10, 120
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "qp": "24"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", rate
        for number in range(rate * seconds):
            frame = av.VideoFrame(32, 18, "gray")
            plane = frame.planes[0]
            plane.update(hashlib.shake_128(str(number).encode()).digest(plane.buffer_size))
            container.mux(stream.encode(frame.reformat(width, height, "yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()
