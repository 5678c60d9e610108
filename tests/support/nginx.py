"""nginx as a proxy on kept connections. Where it is not installed, tests say so and how to get it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sandbox.processes import free_port
from tests.support.waiting import eventually

_NGINX = shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
needed = pytest.mark.skipif(_NGINX is None, reason="needs nginx: make nginx")
# One connection to the gateway for all requests: an answer that is out of step would reach another caller.
_CONFIG = """
daemon off; master_process off; worker_processes 1;
pid {folder}/pid; error_log {folder}/error.log info;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream gateway {{ server {gateway}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering {buffering};
    }}
  }}
}}
"""


@asynccontextmanager
async def nginx(gateway_url: str, folder: Path, *, is_buffering: bool) -> AsyncIterator[tuple[str, Path]]:
    """A proxy before a gateway: its URL, and its log of errors. `is_buffering`: whether it reads ahead."""
    assert _NGINX is not None
    port = free_port()
    config = folder / "nginx.conf"
    gateway, buffering = gateway_url.removeprefix("http://"), "on" if is_buffering else "off"
    config.write_text(_CONFIG.format(folder=folder, gateway=gateway, port=port, buffering=buffering))
    child = await asyncio.create_subprocess_exec(_NGINX, "-c", str(config), "-e", str(folder / "error.log"))

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await eventually(listens, within=5, what="nginx listens")
        yield f"http://127.0.0.1:{port}", folder / "error.log"
    finally:
        child.terminate()
        await child.wait()
