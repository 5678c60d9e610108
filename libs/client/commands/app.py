"""The commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from darkroom.gateway.v1 import gateway_pb2

from libs.client.client import Client
from libs.client.commands import shown
from libs.client.commands.batches import batches
from libs.client.commands.connection import AcceptSecondPayment, connection
from libs.client.commands.images import preprocess
from libs.client.commands.keys import keys
from libs.client.commands.submissions import submissions

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Darkroom.")
app.add_typer(keys, name="keys")
app.add_typer(batches, name="batch")
app.add_typer(submissions, name="submissions")
app.command()(preprocess)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Save = Annotated[Path | None, typer.Option(help="Wait for the end, and save the files into this folder.")]
Pairs = Annotated[list[str] | None, typer.Option(help="name=value; may be given several times.")]


@app.callback()
def connect(
    address: Annotated[str, typer.Option(envvar="DARKROOM_ADDRESS", help="host:port")] = "127.0.0.1:50051",
    api_key: Annotated[str, typer.Option(envvar="DARKROOM_API_KEY", help="Better in the environment.")] = "",
    tls: Annotated[bool, typer.Option(envvar="DARKROOM_TLS", help="The gateway speaks TLS.")] = False,
    root_certificates: Annotated[Path | None, typer.Option(help="PEM; default: whom the system trusts.")] = None,
) -> None:
    """Hand in requests for AI images and videos, and collect the results."""
    connection.address, connection.api_key = address, api_key
    connection.tls, connection.root_certificates = tls, root_certificates


@app.command()
def submit(
    model: str,
    prompt: str,
    parameter: Pairs = None,
    label: Pairs = None,
    image: Annotated[list[str] | None, typer.Option(help="URL of a picture to start from.")] = None,
    outputs: Annotated[int | None, typer.Option(help="How many to make.")] = None,
    reuse_within: Annotated[int | None, typer.Option(help="Take an identical request's result, in seconds.")] = None,
    save: Save = None,
) -> None:
    """Hand in a request; with --save wait for it and keep the files."""
    fields: dict[str, Any] = {"input_images": image or [], "labels": _pairs(label)}
    if outputs is not None:
        fields["number_of_outputs"] = outputs
    if reuse_within is not None:
        fields["reuse_within_seconds"] = reuse_within

    async def work(client: Client) -> None:
        parameters = {name: _value(text) for name, text in _pairs(parameter).items()}
        generation_id = await client.submit(model, prompt, parameters=parameters, **fields)
        shown.console.print(generation_id)
        if save is not None:
            await _watch(client, generation_id, save)

    connection.run(work)


@app.command()
def rerun(
    generation_id: str,
    model: Annotated[str, typer.Option(help="Another model.")] = "",
    parameter: Pairs = None,
    accept_second_payment: AcceptSecondPayment = None,
    save: Save = None,
) -> None:
    """Create a new generation from one that has ended; --parameter replaces all of its parameters."""

    async def work(client: Client) -> None:
        new_id = await client.rerun(
            generation_id,
            model=model,
            parameters={name: _value(text) for name, text in _pairs(parameter).items()} if parameter else None,
            accepted_second_payment_usd=accept_second_payment,
        )
        shown.console.print(new_id)
        if save is not None:
            await _watch(client, new_id, save)

    connection.run(work)


@app.command()
def watch(generation_id: str, save: Save = None) -> None:
    """Show how far a generation is, until it ends."""
    connection.run(lambda client: _watch(client, generation_id, save))


@app.command()
def get(generation_id: str, as_json: AsJson = False) -> None:
    """Show one generation."""
    (shown.as_json if as_json else shown.one)(connection.run(lambda client: client.get(generation_id)))


@app.command("list")
def list_generations(
    status: Annotated[str | None, typer.Option(help="pending, processing, success, failed or cancelled")] = None,
    model: str | None = None,
    label: Pairs = None,
    limit: int = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest generations."""
    filters: dict[str, Any] = {"labels": _pairs(label), "model_identifier": model or ""}
    if status is not None:
        try:
            filters["status"] = gateway_pb2.GenerationStatus.Value(f"GENERATION_STATUS_{status.upper()}")
        except ValueError as error:
            raise typer.BadParameter(f"there is no status {status}") from error

    async def work(client: Client) -> list[gateway_pb2.Generation]:
        return [generation async for generation in client.list_generations(limit=limit, **filters)]

    found = connection.run(work)
    if as_json:
        shown.as_json(gateway_pb2.ListGenerationsResponse(generations=found))
    else:
        shown.generations(found)


@app.command()
def cancel(generation_id: str) -> None:
    """Ask for a generation to be cancelled."""
    shown.one(connection.run(lambda client: client.cancel(generation_id)))


@app.command()
def rate(
    generation_id: str,
    rating: Annotated[int, typer.Argument(min=1, max=5, help="1 (worst) to 5 (best).")],
    feedback: Annotated[str, typer.Option(help="Words.")] = "",
    context: Pairs = None,
) -> None:
    """Keep a user's opinion of a generation, in place of an earlier one."""
    values = {name: _value(text) for name, text in _pairs(context).items()}
    connection.run(lambda client: client.rate(generation_id, rating, feedback=feedback, context=values))


@app.command()
def models(media_type: Annotated[str, typer.Option(help="image or video")] = "", as_json: AsJson = False) -> None:
    """List the models."""
    found = connection.run(lambda client: client.models(media_type))
    if as_json:
        shown.as_json(gateway_pb2.ListModelsResponse(models=found))
    else:
        shown.models(found)


async def _watch(client: Client, generation_id: str, save: Path | None) -> None:
    with shown.Bar() as bar:
        generation = await client.wait(generation_id, on_progress=bar.show)
    shown.one(generation)
    if save is not None:
        shown.saved(await client.files(generation), save)


def _pairs(given: list[str] | None) -> dict[str, str]:
    found = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not name=value")
        found[name] = value
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
