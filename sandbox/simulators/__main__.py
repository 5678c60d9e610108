"""Starts the simulated vendors, which let in the credentials that the catalog's variables hold.

`BFL_API_KEY=… TUZI_API_KEY=… … python -m sandbox.simulators --port 9100 --folder .darkroom/simulators`
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sandbox.simulators import CONTROL, VENDORS
from sandbox.simulators.behaviour import Behaviour
from sandbox.simulators.bfl import Bfl
from sandbox.simulators.fal import Fal
from sandbox.simulators.kling import Kling, KlingRelay
from sandbox.simulators.openai_images import OpenAIImages
from sandbox.simulators.openai_videos import OpenAIVideos
from sandbox.simulators.pollo import Pollo
from sandbox.simulators.received import facts
from sandbox.simulators.replicate import Replicate
from sandbox.simulators.vendor import Vendor
from sandbox.simulators.world import World

# By adapter: who speaks for the vendor, and the variables that hold the credentials it lets in.
_VENDORS: dict[str, tuple[type[Vendor], dict[str, str]]] = {
    "flux": (Bfl, {"api_key": "BFL_API_KEY"}),
    "tuzi_openai": (OpenAIImages, {"api_key": "TUZI_API_KEY"}),
    "kling": (Kling, {"access_key": "KLING_ACCESS_KEY", "secret_key": "KLING_SECRET_KEY"}),
    "kling_relay": (KlingRelay, {"api_key": "TUZI_API_KEY"}),
    "pollo": (Pollo, {"api_key": "POLLO_API_KEY", "webhook_secret": "POLLO_WEBHOOK_SECRET"}),
    "replicate": (Replicate, {"api_key": "REPLICATE_API_TOKEN", "webhook_secret": "REPLICATE_WEBHOOK_SECRET"}),
    "fal": (Fal, {"api_key": "FAL_KEY"}),
    "openai_video": (OpenAIVideos, {"api_key": "TUZI_API_KEY"}),
}


def application(world: World, environment: Mapping[str, str]) -> web.Application:
    """All vendors, each under a prefix of its own, and the control routes."""
    app = web.Application(client_max_size=64 * 1024**2)
    for adapter, (kind, variables) in _VENDORS.items():
        credentials = {name: environment[variable] for name, variable in variables.items()}
        vendor = kind(world, credentials, VENDORS[adapter])
        vendor_app = web.Application(client_max_size=64 * 1024**2, middlewares=[_refusing_reads(vendor)])
        vendor_app.add_routes(vendor.routes())
        app.add_subapp(VENDORS[adapter], vendor_app)
    app.add_routes(_control(world))
    return app


def _refusing_reads(vendor: Vendor) -> Middleware:
    """Refuse reads while the behaviour says so; files are another host's, and need no credentials."""

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        status = vendor.world.behaviour.refused_reads.get(vendor.name)
        is_api = "sig" not in request.query and not request.path.endswith("/jwks.json")
        if status is not None and request.method == "GET" and is_api:
            return vendor.error(status, "The credentials are refused.")
        return await handler(request)

    return refuse


def _control(world: World) -> list[web.RouteDef]:
    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "up"})

    async def ledger(_: web.Request) -> web.Response:
        found = {"bills": world.bills(), "checks": world.checks(), "cancelled": world.cancelled()}
        return web.json_response({**found, "peaks": world.peaks()})

    async def pictures(request: web.Request) -> web.Response:
        found = world.pictures(request.query.get("prompt", ""))
        return web.json_response({"pictures": [facts(picture) for picture in found]})

    async def behave(request: web.Request) -> web.Response:
        world.behaviour = Behaviour.model_validate(await request.json())
        return web.json_response(world.behaviour.model_dump())

    async def forget(_: web.Request) -> web.Response:
        world.forget()
        return web.json_response({})

    return [
        web.get(f"{CONTROL}/health", health),
        web.get(f"{CONTROL}/ledger", ledger),
        web.get(f"{CONTROL}/pictures", pictures),
        web.put(f"{CONTROL}/behaviour", behave),
        web.delete(f"{CONTROL}/world", forget),
    ]


def main() -> None:
    """Read the command line and serve until a signal."""
    parser = argparse.ArgumentParser(description="Simulated vendors with real wire formats and a ledger of bills.")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--folder", type=Path, default=Path(".darkroom/simulators"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    world = World(arguments.folder / "vendors.sqlite")
    app = application(world, os.environ)
    # A vendor that goes away does not wait for its clients.
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=None, access_log=None, shutdown_timeout=0.2)


if __name__ == "__main__":
    main()
