"""The command that prepares images."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from darkroom.gateway.v1 import images_pb2
from rich.progress import track

from libs.client.client import Client
from libs.client.commands import shown
from libs.client.commands.connection import connection
from libs.client.errors import DarkroomError

_EXTENSIONS = {"jpeg": "jpg"}
_AT_ONCE = 4
_BUSY = {"RATE_LIMITED", "SERVICE_UNAVAILABLE"}
_BUSY_TRIES, _BUSY_SECONDS = 20, 1.0

Files = Annotated[list[Path], typer.Argument(help="Images.", exists=True, dir_okay=False)]
Into = Annotated[Path, typer.Option("--output", "-o", help="A folder; for one file also the file.")]
Kept = Annotated[int, typer.Option(min=0, max=7, help="Print a URL for each instead, which works so many days.")]
Side = Annotated[int | None, typer.Option(min=1)]


class Outcome(NamedTuple):
    """What became of a file: an answer and where it was written to, or why there is none."""

    file: Path
    answer: images_pb2.PreprocessImageResponse | None
    where: str


def preprocess(
    files: Files,
    output: Into = Path(),
    preset: Annotated[str, typer.Option(help="fast, standard, high, pollo-optimized, or a provider.")] = "",
    image_format: Annotated[str | None, typer.Option("--format", help="png, jpeg, webp, avif or keep")] = None,
    mode: Annotated[str | None, typer.Option(help="fit, fill, cover or contain")] = None,
    width: Side = None,
    height: Side = None,
    quality: Annotated[int | None, typer.Option(min=1, max=100)] = None,
    max_size_kb: Annotated[int | None, typer.Option(min=1, help="In units of 1,000 bytes.")] = None,
    url_days: Kept = 0,
) -> None:
    """Prepare images as input images of generations are, and say what was changed."""
    fields = _fields(preset, image_format, mode, width, height, quality, max_size_kb, url_days)
    twice = [stem for stem, times in Counter(file.stem for file in files).items() if times > 1]
    if twice and not url_days:
        raise typer.BadParameter(f"more than one file is called {twice[0]}: their outcomes would be, too")
    if len(files) > 1 and not url_days:
        output.mkdir(parents=True, exist_ok=True)
    outcomes = connection.run(lambda client: _all(client, files, fields, None if url_days else output))
    shown.prepared([(outcome.file.name, outcome.answer, outcome.where) for outcome in outcomes])
    if any(outcome.answer is None for outcome in outcomes):
        raise typer.Exit(1)


def _fields(
    preset: str,
    image_format: str | None,
    mode: str | None,
    width: int | None,
    height: int | None,
    quality: int | None,
    max_size_kb: int | None,
    url_days: int,
) -> dict[str, Any] | None:
    return _set(
        preset=preset or None,
        format=image_format,
        resize=_set(mode=mode, width=width, height=height),
        compression=_set(quality=quality, max_size_kb=max_size_kb),
        output={"kind": "url", "expires_in_seconds": url_days * 86_400} if url_days else {"kind": "buffer"},
    )


def _set(**given: Any) -> dict[str, Any] | None:
    """What was given at all; None: nothing."""
    return {name: value for name, value in given.items() if value is not None} or None


async def _all(client: Client, files: list[Path], fields: dict[str, Any] | None, output: Path | None) -> list[Outcome]:
    """Each file, a few at a time, in their order."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(file: Path) -> Outcome:
        async with places:
            return await _one(client, file, fields, output)

    tasks = [asyncio.create_task(one(file)) for file in files]
    try:
        for task in track(asyncio.as_completed(tasks), "Preparing", total=len(tasks), console=shown.console):
            await task
    finally:
        for unfinished in tasks:
            unfinished.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


async def _one(client: Client, file: Path, fields: dict[str, Any] | None, output: Path | None) -> Outcome:
    try:
        answer = await _patiently(client, await asyncio.to_thread(file.read_bytes), fields)
    except DarkroomError as error:
        return Outcome(file, None, error.message)
    if output is None:
        return Outcome(file, answer, answer.url)
    target = await asyncio.to_thread(_write, file, answer, output)
    return Outcome(file, answer, str(target))


def _write(file: Path, answer: images_pb2.PreprocessImageResponse, output: Path) -> Path:
    extension = _EXTENSIONS.get(answer.format, answer.format)
    target = output / f"{file.stem}.{extension}" if output.is_dir() else output
    if target.exists() and target.samefile(file):
        target = target.with_stem(f"{file.stem}-prepared")
    target.write_bytes(answer.content)
    return target


async def _patiently(
    client: Client, content: bytes, fields: dict[str, Any] | None
) -> images_pb2.PreprocessImageResponse:
    """Where too many wait already, ask again after a while."""
    for _ in range(_BUSY_TRIES):
        try:
            return await client.images.preprocess(content, **(fields or {}))
        except DarkroomError as error:
            if error.code not in _BUSY:
                raise
        await asyncio.sleep(_BUSY_SECONDS)
    return await client.images.preprocess(content, **(fields or {}))
