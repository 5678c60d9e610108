"""A batch's results as one download: lines of JSON, or a ZIP of the files with a manifest, made while it is sent."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any

from libs.common.database.records import GenerationRecord, Json
from libs.common.database.stores.generations import GenerationStore
from libs.common.errors import NotFound
from libs.common.rpc.json import to_json
from libs.common.storage.objects import ObjectStore
from services.gateway.messages import generation_message

MANIFEST = "manifest.jsonl"
FORMATS = {"jsonl": "application/x-ndjson", "zip": "application/zip"}
_PAGE = 500


class Export:
    """Reads what a batch has made.

    Args:
        generations: by the page, so that a batch of any size costs the same memory.
        objects: the files.
    """

    def __init__(self, generations: GenerationStore, objects: ObjectStore) -> None:
        self._generations = generations
        self._objects = objects

    def file(self, batch_id: str, wanted: str) -> tuple[Callable[[], AsyncGenerator[bytes]], dict[str, str]]:
        """What makes a batch's results in one of `FORMATS`, and the headers that they are sent with."""
        make = self.lines if wanted == "jsonl" else self.archive
        headers = {
            "content-type": FORMATS[wanted],
            "content-disposition": f'attachment; filename="{batch_id}.{wanted}"',
        }
        return partial(make, batch_id), headers

    async def lines(self, batch_id: str) -> AsyncGenerator[bytes]:
        """Each generation as GetGeneration answers it, a line each, in the order handed in."""
        async for record in self._records(batch_id):
            yield _line(to_json(generation_message(record, self._objects.url)))

    async def archive(self, batch_id: str) -> AsyncGenerator[bytes]:
        """A ZIP of all files, as they are, with a manifest last that has a line for each generation.

        Files that are not ours to keep, or are not there any more, stand in the manifest alone.
        """
        sink = _Sink()
        manifest = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
            async for record in self._records(batch_id):
                entry: Json = to_json(generation_message(record, self._objects.url))
                entry["files"] = []
                for number, output in enumerate(record.outputs or ()):
                    name = _name(record, number, output)
                    # Closed in its turn where nobody takes the rest, which an archive with an open file cannot be.
                    async with aclosing(self._file(archive, sink, name, output, entry)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                manifest.write(_line(entry))
            archive.writestr(_info(MANIFEST), manifest.getvalue())
            yield sink.taken()
        yield sink.taken()

    async def _file(
        self, archive: zipfile.ZipFile, sink: _Sink, name: str, output: Json, entry: Json
    ) -> AsyncGenerator[bytes]:
        if "object_key" not in output:
            return
        async with aclosing(self._objects.stream(output["object_key"])) as chunks:
            try:
                first = await anext(chunks, b"")
            except NotFound:
                return
            entry["files"].append(name)
            with archive.open(_info(name), "w", force_zip64=True) as file:
                file.write(first)
                yield sink.taken()
                async for chunk in chunks:
                    file.write(chunk)
                    yield sink.taken()
        yield sink.taken()

    async def _records(self, batch_id: str) -> AsyncIterator[GenerationRecord]:
        after = -1
        while found := await self._generations.list_of_batch(batch_id, _PAGE, after=after):
            for record in found:
                yield record
            after = found[-1].batch_index or 0


class _Sink(io.RawIOBase):
    """What is written, until it is taken. It knows no way back, so that the archive is made for a stream."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()

    def write(self, content: Any, /) -> int:
        self._written += content
        return len(content)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def taken(self) -> bytes:
        written, self._written = bytes(self._written), bytearray()
        return written


def _info(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, datetime.now(UTC).timetuple()[:6])


def _name(record: GenerationRecord, number: int, output: Json) -> str:
    """Sorts in the order handed in, and no two files share it."""
    extension = str(output.get("object_key", "")).rpartition(".")[2] or "bin"
    ref = f"-{record.batch_ref}" if record.batch_ref else ""
    return f"{record.batch_index:06}{ref}-{number}.{extension}"


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
