"""The demo's batches: two pictures, a video from each, a poster after both; and one whose first picture fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from rich.console import Console

from libs.client.batches import Batches, picture_from
from libs.common.catalog import Catalog

_END_SECONDS, _CALL_SECONDS = 40.0, 10.0
_FAILS = '[sim {"task_seconds": 0.5, "faults": [{"operation": "result", "kind": "failed"}]}]'
_FILMS = {"harbour": "a harbour at dusk", "tram": "a tram in the snow"}


class BatchFailed(RuntimeError):
    """A batch did not end as it should; the message says how."""


def _asked(model: str, prompt: str, ref: str, **fields: Any) -> gateway_pb2.CreateGenerationRequest:
    return gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=prompt, ref=ref, **fields)


class DemoBatches:
    """Runs them.

    Args:
        gateway: takes them.
        catalog: has a model of pictures, and one that makes videos from them.
        console: shows how they go.
    """

    def __init__(self, gateway: GenerationServiceStub, catalog: Catalog, console: Console) -> None:
        self._batches = Batches(gateway, call_seconds=_CALL_SECONDS)
        self._console = console
        models = list(catalog.models.values())
        self._picture = next(model.identifier for model in models if model.media_type == "image")
        self._video = next(
            model.identifier for model in models if model.media_type == "video" and model.max_input_images
        )

    async def chain(self) -> list[gateway_pb2.Generation]:
        """Three stages, each from what the one before it made. BatchFailed unless all of it succeeds."""
        requests = []
        for ref, prompt in _FILMS.items():
            film = _asked(self._video, f"{prompt}, the camera moves", f"{ref}-film", images_from=[picture_from(ref)])
            requests += [_asked(self._picture, prompt, ref), film]
        films = [f"{ref}-film" for ref in _FILMS]
        requests.append(_asked(self._picture, "a poster for both films", "poster", depends_on=films))
        batch, tasks = await self._run("A batch: two pictures, a video from each, a poster at the end", requests)
        if batch.status != gateway_pb2.BATCH_STATUS_COMPLETED:
            raise BatchFailed(f"the batch ended with {batch.completed_tasks} of {batch.total_tasks}")
        self._console.print(
            f"  expected {batch.estimate.expected_usd:.3f} US dollars, cost {batch.cost_usd:.3f}", highlight=False
        )
        return tasks

    async def broken_chain(self) -> None:
        """A first stage that fails, and what was to follow it. BatchFailed unless that is skipped with the cause."""
        requests = [
            _asked(self._picture, f"a picture {_FAILS}", "picture"),
            _asked(self._video, "a video", "film", images_from=[picture_from("picture")]),
        ]
        _, (_, film) = await self._run("A batch whose picture fails", requests)
        if film.error.code != common_pb2.ERROR_CODE_SKIPPED or film.attempts:
            raise BatchFailed("what depended on a failure was run")

    async def _run(
        self, title: str, requests: Sequence[gateway_pb2.CreateGenerationRequest]
    ) -> tuple[gateway_pb2.Batch, list[gateway_pb2.Generation]]:
        self._console.print(f"\n{title}:")
        batch_id, started = await self._batches.submit(requests), time.monotonic()

        def show(batch: gateway_pb2.Batch) -> None:
            seconds = time.monotonic() - started
            self._console.print(f"  {seconds:5.1f} s  {batch.progress:3d} %", highlight=False)

        async with asyncio.timeout(_END_SECONDS):
            batch = await self._batches.wait(batch_id, on_progress=show)
        tasks = [task async for task in self._batches.tasks(batch_id)]
        for task in tasks:
            word = gateway_pb2.GenerationStatus.Name(task.status).removeprefix("GENERATION_STATUS_")
            why = f"   {task.error.message}" if task.HasField("error") else ""
            line = f"  {task.ref:<14} {task.model_identifier:<12} {word}{why}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        return batch, tasks
