"""How generations, models and keys look in a terminal, or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from darkroom.gateway.v1 import admin_pb2, gateway_pb2, images_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from libs.client.client import File, created_at

console = Console(highlight=False)
_COLOURS = {"SUCCESS": "green", "FAILED": "red", "CANCELLED": "red", "PROCESSING": "yellow"}
_BATCH_COLOURS = {"COMPLETED": "green", "PROCESSING": "yellow"}
_PROMPT_LENGTH = 40


def status_of(generation: gateway_pb2.Generation) -> str:
    """Its status in one word."""
    return gateway_pb2.GenerationStatus.Name(generation.status).removeprefix("GENERATION_STATUS_")


def as_json(message: Message) -> None:
    """A message for programs."""
    console.print_json(json.dumps(MessageToDict(message)))


def generations(found: Iterable[gateway_pb2.Generation]) -> None:
    """A table of generations."""
    table = _table("id", "status", "model", "created", "cost USD", "prompt")
    for generation in found:
        word = status_of(generation)
        table.add_row(
            generation.id,
            f"[{_COLOURS.get(word, 'white')}]{word}[/]",
            generation.model_identifier,
            f"{created_at(generation):%Y-%m-%d %H:%M:%S}",
            f"{generation.cost_usd:.3f}" if generation.cost_usd else "",
            _short(generation.prompt),
        )
    console.print(table)


def one(generation: gateway_pb2.Generation) -> None:
    """One generation with its results or its reason."""
    generations([generation])
    for output in generation.results:
        console.print(
            f"  {output.type} {output.content_type} {output.size_bytes} bytes\n  {output.url}", soft_wrap=True
        )
    if generation.HasField("error"):
        console.print(f"  {generation.error.message}", style="red", markup=False)


def batches(found: Iterable[gateway_pb2.Batch]) -> None:
    """A table of batches."""
    table = _table("id", "status", "done", "succeeded", "failed", "cancelled", "skipped", "cost USD", "expected USD")
    for batch in found:
        word = gateway_pb2.BatchStatus.Name(batch.status).removeprefix("BATCH_STATUS_")
        table.add_row(
            batch.batch_id,
            f"[{_BATCH_COLOURS.get(word, 'red')}]{word}[/]",
            f"{batch.progress} %",
            f"{batch.completed_tasks} of {batch.total_tasks}",
            *(str(count or "") for count in (batch.failed_tasks, batch.cancelled_tasks, batch.skipped_tasks)),
            f"{batch.cost_usd:.3f}",
            f"{batch.estimate.expected_usd:.3f}",
        )
    console.print(table)


def price(found: gateway_pb2.EstimateCostResponse) -> None:
    """What something would cost and take."""
    table = _table("model", "requests", "low USD", "expected USD", "high USD", "seconds each", "known from")
    for model in found.models:
        prices = (model.low_usd, model.expected_usd, model.high_usd)
        known = f"{model.observed_tasks} of the last week" if model.observed_tasks else "a guess"
        table.add_row(
            model.model_identifier,
            str(model.total_tasks),
            *(f"{usd:.3f}" for usd in prices),
            f"{model.seconds_each:.0f}",
            known,
        )
    console.print(table)
    prices = (found.low_usd, found.expected_usd, found.high_usd)
    told = " to ".join(f"{usd:.3f}" for usd in (prices[0], prices[2]))
    console.print(f"{told} {found.currency}, {prices[1]:.3f} expected, within {found.expected_seconds:.0f} s.")


def models(found: Iterable[gateway_pb2.Model]) -> None:
    """A table of models."""
    table = _table("model", "makes", "provider", "price USD", "outputs", "pictures in", "what it is good at")
    for model in found:
        price = (
            f"{model.price_per_second_usd:g} a second"
            if model.HasField("price_per_second_usd")
            else f"{model.price_per_output_usd:g}"
        )
        table.add_row(
            model.identifier,
            model.media_type,
            model.provider_id,
            price,
            str(model.max_outputs),
            str(model.max_input_images),
            model.description,
        )
    console.print(table)


def keys(found: Iterable[admin_pb2.ApiKey]) -> None:
    """A table of API keys."""
    heads = (
        "id",
        "prefix",
        "role",
        "owner",
        "a minute",
        "live",
        "budget USD",
        "reserved USD",
        "spent USD",
        "at risk USD",
    )
    table = _table(*heads, "last used", "")
    for key in found:
        quota, usage = key.quota, key.usage
        table.add_row(
            key.id,
            key.prefix,
            admin_pb2.ApiKeyRole.Name(key.role).removeprefix("API_KEY_ROLE_").lower(),
            key.owner,
            str(quota.requests_per_minute) if quota.HasField("requests_per_minute") else "",
            f"{usage.live_generations}{_of(quota.live_generations, quota.HasField('live_generations'))}",
            f"{quota.monthly_budget_usd:g}" if quota.HasField("monthly_budget_usd") else "",
            *(f"{usd:.2f}" for usd in (usage.reserved_usd, usage.spent_usd, usage.at_risk_usd)),
            f"{key.last_used_at.ToDatetime():%Y-%m-%d %H:%M}" if key.HasField("last_used_at") else "never",
            "revoked" if key.HasField("revoked_at") else "",
        )
    console.print(table)


def submissions(found: Iterable[gateway_pb2.Submission]) -> None:
    """A table of submissions."""
    table = _table(
        "id",
        "generation",
        "provider",
        "model",
        "state",
        "submitted",
        "expected USD",
        "at risk USD",
        "spent USD",
        "billing",
    )
    for one in found:
        billing = gateway_pb2.SubmissionBilling.Name(one.billing).removeprefix("SUBMISSION_BILLING_")
        table.add_row(
            one.id,
            one.generation_id,
            one.provider_id,
            one.model_identifier,
            gateway_pb2.SubmissionState.Name(one.state).removeprefix("SUBMISSION_STATE_"),
            f"{one.started_at.ToDatetime():%Y-%m-%d %H:%M:%S}",
            *(f"{usd:.6f}" if usd else "" for usd in (one.expected_cost_usd, one.at_risk_usd, one.spent_usd)),
            billing if one.billing else "",
        )
    console.print(table)


def resolved(found: gateway_pb2.ResolveSubmissionsResponse, done: str) -> None:
    """How many submissions were resolved, or would be."""
    skipped = f", {found.skipped_submissions} skipped" if found.skipped_submissions else ""
    console.print(
        f"{found.resolved_submissions} submissions {done}{skipped}: {found.at_risk_usd:.6f} USD at risk before, "
        f"{found.spent_usd:.6f} USD spent afterwards"
    )
    if found.has_more:
        console.print("More match: run the command again.")


def saved(files: Iterable[File], folder: Path) -> None:
    """Write files into a folder and tell where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        console.print(f"  {file.save(folder)}  {len(file.content) / 1_000:.0f} kB {file.content_type}", soft_wrap=True)


def prepared(found: Sequence[tuple[str, images_pb2.PreprocessImageResponse | None, str]]) -> None:
    """What became of images: of each its name, the answer, and where it is or why it is nowhere."""
    table = _table("image", "was", "is", "smaller by", "what was changed", "where")
    for name, answer, where in found:
        if answer is None:
            table.add_row(name, "", "[red]refused[/]", "", f"[red]{escape(where)}[/]", "")
            continue
        source = answer.source
        changes = ", ".join(change for step in answer.steps for change in step.changes)
        table.add_row(
            name,
            f"{source.format} {source.width}x{source.height} {source.size_bytes / 1_000:,.0f} KB",
            f"{answer.format} {answer.width}x{answer.height} {answer.size_bytes / 1_000:,.0f} KB",
            f"{1 - answer.size_bytes / source.size_bytes:.0%}",
            changes,
            "" if answer.url else where,
        )
    console.print(table)
    for name, answer, where in found:
        if answer is not None and answer.url:
            console.print(f"{name}  {where}", soft_wrap=True, markup=False)


class Bar:
    """A progress bar for one generation, or for one batch."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, generation: gateway_pb2.Generation) -> None:
        """The generation has changed."""
        self._show(f"{generation.id} {status_of(generation)}", generation.progress)

    def show_batch(self, batch: gateway_pb2.Batch) -> None:
        """The batch has changed."""
        self._show(f"{batch.batch_id} {batch.completed_tasks} of {batch.total_tasks}", batch.progress)

    def _show(self, told: str, percent: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task(told, total=100)
        self._progress.update(self._task, completed=percent, description=told)


def _of(limit: float, is_set: bool) -> str:
    return f" of {limit:g}" if is_set else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _PROMPT_LENGTH else line[: _PROMPT_LENGTH - 1] + "…"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def facts(**values: Any) -> None:
    """Names and values, one a line."""
    for name, value in values.items():
        console.print(f"{name.replace('_', ' '):<16} {value}", soft_wrap=True, markup=False)
