"""All pages and buttons by their paths below /admin: what is not here is not served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from services.gateway.console import files
from services.gateway.console.pages import (
    alerts,
    audit,
    batches,
    errors,
    experiments,
    generation,
    generations,
    keys,
    models,
    overview,
    playground,
    submissions,
)
from services.gateway.console.visit import Gone, Page, Visit

Show = Callable[[Visit], Awaitable[Page | Gone]]
Send = Callable[[Visit], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Button:
    """What pressing does. `action`: how the audit log calls it; empty for what changes nothing."""

    action: str
    press: Show


PAGES: Mapping[str, Show] = {
    "": overview.show,
    "/generations": generations.show,
    "/generations/{id}": generation.show,
    "/submissions": submissions.show,
    "/batches": batches.show,
    "/batches/{batch_id}": batches.show_one,
    "/monitoring/errors": errors.show,
    "/monitoring/errors/{id}": errors.show_one,
    "/monitoring/alerts": alerts.show,
    "/monitoring/alerts/{id}": alerts.show_one,
    "/experiments": experiments.show,
    "/experiments/new": experiments.new,
    "/experiments/{id}": experiments.show_one,
    "/models": models.show,
    "/playground": playground.show,
    "/keys": keys.show,
    "/audit": audit.show,
}
BUTTONS: Mapping[str, Button] = {
    "/generations/{id}/cancel": Button("generation.cancel", generation.cancel),
    "/generations/{id}/run-again": Button("generation.run_again", generation.run_again),
    "/submissions/{submission_id}/resolve": Button("submission.resolve", generation.resolve),
    "/submissions/preview": Button("", submissions.preview),
    "/submissions/resolve": Button("submission.resolve_many", submissions.resolve),
    "/batches/{batch_id}/cancel": Button("batch.cancel", batches.cancel),
    "/batches/{batch_id}/resume": Button("batch.resume", batches.resume),
    "/monitoring/errors/{id}/resolve": Button("error.resolve", errors.resolve),
    "/monitoring/alerts/{id}/acknowledge": Button("alert.acknowledge", alerts.acknowledge),
    "/monitoring/silences": Button("alert.silence", alerts.silence),
    "/monitoring/silences/{id}/end": Button("silence.end", alerts.end_silence),
    "/monitoring/channels/{channel}/test": Button("channel.test", alerts.test),
    "/experiments/new": Button("experiment.create", experiments.create),
    "/experiments/check": Button("", experiments.check),
    "/experiments/{id}/start": Button("experiment.start", experiments.start),
    "/experiments/{id}/pause": Button("experiment.pause", experiments.pause),
    "/experiments/{id}/complete": Button("experiment.complete", experiments.complete),
    "/experiments/{id}/roll-out": Button("experiment.roll_out", experiments.roll_out),
    "/playground": Button("playground.send", playground.send),
    "/playground/preview": Button("", playground.preview),
    "/keys": Button("key.create", keys.create),
    "/keys/{id}/change": Button("key.change", keys.change),
    "/keys/{id}/revoke": Button("key.revoke", keys.revoke),
}
FILES: Mapping[str, Send] = {
    "/generations/{id}/outputs/{index}": files.output,
    "/generations/{id}/thumbnails/{index}": files.thumbnail,
    "/batches/{batch_id}/download": files.batch_results,
}
