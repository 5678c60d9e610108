"""`darkroom submissions`: uncertain submissions and money at risk. Takes an admin key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from darkroom.gateway.v1 import gateway_pb2

from libs.client.client import Client
from libs.client.commands import shown
from libs.client.commands.connection import AcceptSecondPayment, connection

submissions = typer.Typer(no_args_is_help=True, help="Uncertain submissions and money at risk.")
_SHOWN = 100


class Concern(StrEnum):
    """Which submissions are listed."""

    ANY = "any"
    AT_RISK = "at-risk"
    UNCERTAIN = "uncertain"


class Resolution(StrEnum):
    """The resolution of a submission."""

    ATTACHED = "attached"
    RESUBMITTED = "resubmitted"
    DISMISSED = "dismissed"


class Billing(StrEnum):
    """Whether a submission was billed."""

    BILLED = "billed"
    NOT_BILLED = "not-billed"


Provider = Annotated[str, typer.Option(help="Only those submitted to this provider account.")]
Model = Annotated[str, typer.Option(help="Only those of this model.")]
After = Annotated[datetime | None, typer.Option(help="Only those submitted at this time (UTC) or later.")]
Before = Annotated[datetime | None, typer.Option(help="Only those submitted before this time (UTC).")]


@submissions.command("list")
def list_submissions(
    concern: Annotated[Concern, typer.Option(help="Which.")] = Concern.ANY,
    generation: Annotated[str, typer.Option(help="All of this generation.")] = "",
    provider: Provider = "",
    model: Model = "",
    after: After = None,
    before: Before = None,
    limit: int = _SHOWN,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List submissions that are uncertain or have money at risk, the oldest first, with their number and sum."""
    request = gateway_pb2.ListSubmissionsRequest(
        generation_id=generation,
        concern=gateway_pb2.SUBMISSION_CONCERN_UNSPECIFIED
        if generation
        else gateway_pb2.SubmissionConcern.Value(f"SUBMISSION_CONCERN_{concern.name}"),
        provider_id=provider,
        model_identifier=model,
    )
    _set_times(request, after, before)

    async def work(client: Client) -> gateway_pb2.ListSubmissionsResponse:
        return await client.list_submissions(request, limit=limit)

    found = connection.run(work)
    if as_json:
        shown.as_json(found)
        return
    shown.submissions(found.submissions)
    shown.console.print(f"{found.total_submissions} submissions, {found.total_at_risk_usd:.6f} USD at risk")


@submissions.command()
def resolve(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of submissions. None: all that match the options.")
    ] = None,
    billing: Annotated[Billing | None, typer.Option(help="Whether they were billed.")] = None,
    resolution: Annotated[Resolution | None, typer.Option(help="With many submissions: only dismissed.")] = None,
    cost_usd: Annotated[float | None, typer.Option(help="With --billing billed: the cost in US dollars.")] = None,
    task_id: Annotated[str, typer.Option(help="With --resolution attached: the provider's id of the task.")] = "",
    check_url: Annotated[str, typer.Option(help="With --resolution attached: the URL to poll.")] = "",
    accept_second_payment: AcceptSecondPayment = None,
    note: str = "",
    provider: Provider = "",
    model: Model = "",
    after: After = None,
    before: Before = None,
    yes: Annotated[bool, typer.Option("--yes", help="Resolve many without confirmation.")] = False,
) -> None:
    """Resolve one submission, or record for many whether they were billed.

    Without ids, resolves all submissions with money at risk that match --provider, --model, --after and --before. Shows
    their number and sum before it resolves many.
    """
    if ids and (provider or model or after is not None or before is not None):
        raise typer.BadParameter("give either ids, or --provider, --model, --after and --before")
    if ids is not None and len(ids) == 1:
        one = gateway_pb2.ResolveSubmissionRequest(
            submission_id=ids[0],
            resolution=_resolution(resolution),
            billing=_billing(billing),
            cost_usd=cost_usd,
            task_id=task_id,
            check_url=check_url,
            accepted_second_payment_usd=accept_second_payment,
            note=note,
        )
        _resolve_one(one)
        return
    _check_many(resolution, [accept_second_payment, cost_usd, task_id or None, check_url or None])
    many = gateway_pb2.ResolveSubmissionsRequest(
        submission_ids=ids or [], billing=_billing(billing), dismiss=resolution is Resolution.DISMISSED, note=note
    )
    if not ids:
        many.selection.provider_id, many.selection.model_identifier = provider, model
        many.selection.SetInParent()
        _set_times(many.selection, after, before)
    _resolve_many(many, yes)


def _check_many(resolution: Resolution | None, of_one: Sequence[object]) -> None:
    """Raise BadParameter where options are given beside many ids, or none, that take exactly one id.

    Args:
        resolution: as given.
        of_one: the values of the other options that take exactly one id; None: not given.
    """
    if resolution not in {None, Resolution.DISMISSED} or any(value is not None for value in of_one):
        raise typer.BadParameter(
            "--accept-second-payment, --cost-usd, --task-id, --check-url and the resolutions attached and resubmitted "
            "take exactly one id"
        )


def _set_times(
    message: gateway_pb2.ListSubmissionsRequest | gateway_pb2.SubmissionSelection,
    after: datetime | None,
    before: datetime | None,
) -> None:
    if after is not None:
        message.started_after.FromDatetime(after.replace(tzinfo=UTC))
    if before is not None:
        message.started_before.FromDatetime(before.replace(tzinfo=UTC))


def _resolution(resolution: Resolution | None) -> gateway_pb2.SubmissionResolution.ValueType:
    if resolution is None:
        return gateway_pb2.SUBMISSION_RESOLUTION_UNSPECIFIED
    return gateway_pb2.SubmissionResolution.Value(f"SUBMISSION_RESOLUTION_{resolution.name}")


def _billing(billing: Billing | None) -> gateway_pb2.SubmissionBilling.ValueType:
    if billing is None:
        return gateway_pb2.SUBMISSION_BILLING_UNSPECIFIED
    return gateway_pb2.SubmissionBilling.Value(f"SUBMISSION_BILLING_{billing.name}")


def _resolve_one(request: gateway_pb2.ResolveSubmissionRequest) -> None:
    async def work(client: Client) -> gateway_pb2.ResolveSubmissionResponse:
        return await client.resolve_submission(request)

    answer = connection.run(work)
    shown.submissions([answer.submission])
    if answer.generation_id:
        shown.facts(continued_by=answer.generation_id)


def _resolve_many(request: gateway_pb2.ResolveSubmissionsRequest, yes: bool) -> None:
    def call(dry_run: bool) -> gateway_pb2.ResolveSubmissionsResponse:
        request.dry_run = dry_run

        async def work(client: Client) -> gateway_pb2.ResolveSubmissionsResponse:
            return await client.resolve_submissions(request)

        return connection.run(work)

    if not yes:
        found = call(dry_run=True)
        shown.resolved(found, "would be resolved")
        if not found.resolved_submissions or not typer.confirm("Resolve them?"):
            return
    shown.resolved(call(dry_run=False), "resolved")
