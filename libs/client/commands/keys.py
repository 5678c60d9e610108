"""`darkroom keys`: who may come in. Takes an admin key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar

import typer
from darkroom.gateway.v1 import admin_pb2
from darkroom.gateway.v1.admin_pb2_grpc import AdminServiceStub

from libs.client.client import Client
from libs.client.commands import shown
from libs.client.commands.connection import connection
from libs.client.errors import answer_of

T = TypeVar("T")
_CALL_SECONDS = 30.0
_CLEARABLE = {
    "requests-per-minute": "quota.requests_per_minute",
    "live-generations": "quota.live_generations",
    "monthly-budget-usd": "quota.monthly_budget_usd",
    "callback-url": "callback_url",
    "expires-at": "expires_at",
}
keys = typer.Typer(no_args_is_help=True, help="API keys and their quotas.")


def _admin(work: Callable[[AdminServiceStub], Awaitable[T]]) -> T:
    async def whole(client: Client) -> T:
        return await answer_of(work(AdminServiceStub(client.channel)))

    return connection.run(whole)


@keys.command()
def create(
    owner: Annotated[str, typer.Option(help="Who will use it. Keys of one owner see the same generations.")],
    admin: Annotated[bool, typer.Option("--admin", help="A key that opens everything.")] = False,
    requests_per_minute: int | None = None,
    live_generations: int | None = None,
    monthly_budget_usd: float | None = None,
    callback_url: str = "",
    days: Annotated[int | None, typer.Option(min=1, help="Valid for so long.")] = None,
) -> None:
    """Make a key. It is shown once."""
    request = admin_pb2.CreateApiKeyRequest(
        owner=owner,
        role=admin_pb2.API_KEY_ROLE_ADMIN if admin else admin_pb2.API_KEY_ROLE_CLIENT,
        quota=admin_pb2.ApiKeyQuota(
            requests_per_minute=requests_per_minute,
            live_generations=live_generations,
            monthly_budget_usd=monthly_budget_usd,
        ),
        callback_url=callback_url,
    )
    if days is not None:
        request.expires_at.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    made = _admin(lambda stub: stub.CreateApiKey(request, timeout=_CALL_SECONDS))
    shown.facts(id=made.api_key.id, owner=owner, key=made.key, callback_secret=made.callback_secret)
    shown.console.print("The key is not shown again.")


@keys.command("list")
def list_keys(
    owner: str = "", everything: Annotated[bool, typer.Option("--all", help="Also what is not valid any more.")] = False
) -> None:
    """List keys with their quotas and what is used of them."""

    async def work(stub: AdminServiceStub) -> list[admin_pb2.ApiKey]:
        found: list[admin_pb2.ApiKey] = []
        token = ""
        while True:
            request = admin_pb2.ListApiKeysRequest(
                owner=owner, include_invalid=everything, page_size=200, page_token=token
            )
            answer = await stub.ListApiKeys(request, timeout=_CALL_SECONDS)
            found += answer.api_keys
            token = answer.next_page_token
            if not token:
                return found

    shown.keys(_admin(work))


@keys.command()
def update(
    key_id: str,
    requests_per_minute: int | None = None,
    live_generations: int | None = None,
    monthly_budget_usd: float | None = None,
    callback_url: str | None = None,
    days: Annotated[int | None, typer.Option(min=1, help="Valid for so long from now.")] = None,
    clear: Annotated[list[str] | None, typer.Option(help=f"Remove a value: {', '.join(_CLEARABLE)}.")] = None,
) -> None:
    """Change a key. What is not given stays as it is."""
    unknown = [name for name in clear or () if name not in _CLEARABLE]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(_CLEARABLE)}", param_hint="--clear")
    quota = admin_pb2.ApiKeyQuota(
        requests_per_minute=requests_per_minute,
        live_generations=live_generations,
        monthly_budget_usd=monthly_budget_usd,
    )
    request = admin_pb2.UpdateApiKeyRequest(id=key_id, quota=quota, callback_url=callback_url)
    if days is not None:
        request.expires_at.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    given = (requests_per_minute, live_generations, monthly_budget_usd, callback_url, days)
    named = {name for name, value in zip(_CLEARABLE, given, strict=True) if value is not None}
    twice = named & set(clear or ())
    if twice:
        raise typer.BadParameter(f"{min(twice)} is set and cleared", param_hint="--clear")
    request.update_mask.paths.extend(_CLEARABLE[name] for name in sorted(named | set(clear or ())))
    shown.keys([_admin(lambda stub: stub.UpdateApiKey(request, timeout=_CALL_SECONDS)).api_key])


@keys.command()
def revoke(key_id: str) -> None:
    """Make a key worthless."""
    request = admin_pb2.RevokeApiKeyRequest(id=key_id)
    answer = _admin(lambda stub: stub.RevokeApiKey(request, timeout=_CALL_SECONDS))
    shown.keys([answer.api_key])
