"""Starts the simulated vendors: `python -m sandbox.simulators --port 9100 --folder .darkroom/simulators`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from aiohttp import web

from sandbox.simulators.behaviour import Behaviour
from sandbox.simulators.bfl import Bfl
from sandbox.simulators.openai_images import OpenAIImages
from sandbox.simulators.world import World

CONTROL = "/_control"


def application(world: World, *, bfl_key: str, openai_key: str) -> web.Application:
    """All vendors, each under a prefix of its own, and the control routes."""
    app = web.Application(client_max_size=64 * 1024**2)
    for prefix, vendor in (("/bfl", Bfl(world, bfl_key)), ("/openai", OpenAIImages(world, openai_key))):
        vendor_app = web.Application(client_max_size=64 * 1024**2)
        vendor_app.add_routes(vendor.routes())
        app.add_subapp(prefix, vendor_app)
    app.add_routes(_control(world))
    return app


def _control(world: World) -> list[web.RouteDef]:
    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "up"})

    async def ledger(_: web.Request) -> web.Response:
        return web.json_response({"bills": world.bills(), "checks": world.checks()})

    async def behave(request: web.Request) -> web.Response:
        world.behaviour = Behaviour.model_validate(await request.json())
        return web.json_response(world.behaviour.model_dump())

    async def forget(_: web.Request) -> web.Response:
        world.forget()
        return web.json_response({})

    return [
        web.get(f"{CONTROL}/health", health),
        web.get(f"{CONTROL}/ledger", ledger),
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
    world = World(arguments.folder / "world.sqlite")
    app = application(
        world,
        bfl_key=os.environ.get("BFL_API_KEY", "simulated-bfl-key"),
        openai_key=os.environ.get("TUZI_API_KEY", "simulated-tuzi-key"),
    )
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
