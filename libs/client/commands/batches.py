"""The commands about batches."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.client.client import Client
from libs.client.commands import shown
from libs.client.commands.connection import AcceptSecondPayment, connection
from libs.client.commands.rows import requests

batches = typer.Typer(no_args_is_help=True, help="Many requests at once.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
File = Annotated[Path, typer.Argument(help="JSONL or CSV: a request a line.", exists=True, dir_okay=False)]
Save = Annotated[Path | None, typer.Option(help="Wait for the end, and save the files into this folder.")]
Concurrency = Annotated[int, typer.Option(min=1, max=10_000, help="How many may be at work at once.")]


@batches.command()
def submit(
    file: File,
    concurrency: Concurrency = 3,
    in_order: Annotated[bool, typer.Option(help="One after the other, in their order.")] = False,
    stop_on_error: Annotated[bool, typer.Option(help="The first failure cancels what has not begun.")] = False,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="0 (last) to 9 (first), for all.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="Not if it is expected to cost more, in USD.")] = None,
    follow: Annotated[bool, typer.Option(help="Wait for the end.")] = False,
    save: Save = None,
) -> None:
    """Hand in a batch and print its id. Run again within a day, it finds the same one and makes nothing twice."""
    options: dict[str, Any] = {"parallel": not in_order, "stop_on_error": stop_on_error}
    options |= {} if in_order else {"max_concurrency": concurrency}
    options |= {} if priority is None else {"priority": priority}
    options |= {} if budget is None else {"budget_usd": budget}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    asked = requests(file)

    async def work(client: Client) -> gateway_pb2.Batch | None:
        key = f"{file.name}-{digest}"
        batch_id = await client.batches.submit(asked, idempotency_key=key, **options)
        shown.console.print(batch_id)
        return await _follow(client, batch_id, save) if follow or save is not None else None

    batch = connection.run(work)
    if batch is not None:
        _tell(batch, fails=True)


@batches.command()
def estimate(file: File, concurrency: Concurrency = 3) -> None:
    """Say what up to 1,000 requests would cost and take."""
    shown.price(connection.run(lambda client: client.batches.estimate(requests(file), max_concurrency=concurrency)))


@batches.command()
def watch(batch_id: str, save: Save = None) -> None:
    """Show how far a batch is, until it ends."""
    _tell(connection.run(lambda client: _follow(client, batch_id, save)), fails=True)


@batches.command()
def get(batch_id: str, as_json: AsJson = False) -> None:
    """Show a batch, and what of it did not succeed."""

    async def work(client: Client) -> gateway_pb2.Batch:
        batch = await client.batches.get(batch_id)
        await _tell_failures(client, batch)
        return batch

    if as_json:
        shown.as_json(connection.run(lambda client: client.batches.get(batch_id)))
    else:
        _tell(connection.run(work), fails=False)


@batches.command("list")
def list_batches(limit: int = 20, as_json: AsJson = False) -> None:
    """List the newest batches."""

    async def work(client: Client) -> list[gateway_pb2.Batch]:
        return [batch async for batch in client.batches.list_batches(limit=limit)]

    found = connection.run(work)
    if as_json:
        shown.as_json(gateway_pb2.ListBatchesResponse(batches=found))
    else:
        shown.batches(found)


@batches.command()
def cancel(batch_id: str) -> None:
    """Cancel what has not begun, and ask for the rest to be cancelled."""
    shown.batches([connection.run(lambda client: client.batches.cancel(batch_id))])


@batches.command()
def resume(
    batch_id: str,
    code: Annotated[list[str] | None, typer.Option(help="Only what ended for it; may be repeated.")] = None,
    accept_second_payment: AcceptSecondPayment = None,
) -> None:
    """Run again what failed, was cancelled or skipped."""
    known = common_pb2.DESCRIPTOR.enum_types_by_name["ErrorCode"].values_by_name
    unknown = [word for word in code or () if f"ERROR_CODE_{word}" not in known]
    if unknown:
        raise typer.BadParameter(f"there is no code {unknown[0]}")
    batch = connection.run(
        lambda client: client.batches.resume(batch_id, code or (), accepted_second_payment_usd=accept_second_payment)
    )
    shown.batches([batch])
    if batch.left_out_tasks:
        shown.console.print(
            f"{batch.left_out_tasks} left out: they were submitted and may be billed. To submit them again, resume "
            f"with --accept-second-payment {batch.second_payment_usd:.6f}.",
            soft_wrap=True,
        )


async def _follow(client: Client, batch_id: str, save: Path | None) -> gateway_pb2.Batch:
    with shown.Bar() as bar:
        batch = await client.batches.wait(batch_id, on_progress=bar.show_batch)
    await _tell_failures(client, batch)
    if save is not None:
        async for task in client.batches.tasks(batch_id, status=gateway_pb2.GENERATION_STATUS_SUCCESS):
            shown.saved(await client.files(task), save)
    return batch


async def _tell_failures(client: Client, batch: gateway_pb2.Batch) -> None:
    for status in (gateway_pb2.GENERATION_STATUS_FAILED, gateway_pb2.GENERATION_STATUS_CANCELLED):
        async for task in client.batches.tasks(batch.batch_id, status=status):
            code = common_pb2.ErrorCode.Name(task.error.code).removeprefix("ERROR_CODE_")
            what = f"  request {task.batch_index + 1}, {task.id}: {code}: {task.error.message}"
            shown.console.print(what, style="red", markup=False, soft_wrap=True)


def _tell(batch: gateway_pb2.Batch, *, fails: bool) -> None:
    shown.batches([batch])
    shown.console.print(f"{batch.completed_tasks} of {batch.total_tasks} succeeded.")
    if fails and batch.completed_tasks < batch.total_tasks:
        raise typer.Exit(1)
