"""How the commands reach the gateway: by options, or by the environment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from libs.client.client import Client

T = TypeVar("T")
AcceptSecondPayment = Annotated[
    float | None,
    typer.Option(min=0, help="Consent to a second payment of at most this many US dollars."),
]


@dataclass(slots=True)
class Connection:
    """Set once by the command line's own options."""

    address: str = "127.0.0.1:50051"
    api_key: str = ""
    tls: bool = False
    root_certificates: Path | None = None

    def run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Do something with a client, and answer what it answers."""

        async def whole() -> T:
            async with Client(
                self.address, self.api_key, tls=self.tls, root_certificates=self.root_certificates
            ) as client:
                return await work(client)

        return asyncio.run(whole())


connection = Connection()
