"""`make up`: the whole stack on fixed ports until Ctrl-C, with every service's log before one's eyes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import defaultdict

from sandbox.launcher import Stack, StackFailed
from sandbox.plan import FOLDER, Plan, Ports

_COLOURS = {"gateway": 36, "dispatcher": 33, "poller": 32, "monitor": 35, "experiments": 34, "simulators": 90}
_WIDTH = max(map(len, _COLOURS))
_CHECK_SECONDS = 0.25
_RESTART_SECONDS = 2.0
_ENDS_LIMIT = 3
_WINDOW_SECONDS = 60.0

_BANNER = """
Darkroom is up. Ctrl-C stops it. Data and logs are in {folder}.

  gateway      127.0.0.1:{gateway}     dispatcher 127.0.0.1:{dispatcher}     poller 127.0.0.1:{poller}
  monitor      127.0.0.1:{monitor}     experiments 127.0.0.1:{experiments}
  console      http://127.0.0.1:{http}/admin
  REST         http://127.0.0.1:{http}/api/openapi.json
  OpenAI face  http://127.0.0.1:{http}/v1
  webhooks     http://127.0.0.1:{http}/api/webhooks/<provider>
  metrics      http://127.0.0.1:{metrics}/metrics and the four after it
  catalog      {catalog}
  admin key    {admin_key}

  Send a request:
    export DARKROOM_ADDRESS=127.0.0.1:{gateway} DARKROOM_API_KEY={admin_key}
    .venv/bin/darkroom submit flux-pro "a red apple" --save .
    curl -H "x-api-key: $DARKROOM_API_KEY" -d '{{"modelIdentifier": "flux-pro", "prompt": "a red apple"}}' \\
      http://127.0.0.1:{http}/api/external/generation
"""


def _show(name: str, line: str) -> None:
    prefix = f"{name:<{_WIDTH}} │ "
    if sys.stdout.isatty():
        prefix = f"\033[{_COLOURS.get(name, 0)}m{prefix}\033[0m"
    print(prefix + line, flush=True)


def _banner(stack: Stack) -> str:
    ports = stack.plan.ports
    return _BANNER.format(
        folder=stack.plan.folder,
        metrics=ports.metrics["gateway"],
        http=ports.gateway_http,
        admin_key=stack.admin_key,
        catalog=stack.environment["DARKROOM_CATALOG"],
        **{str(name): port for name, port in ports.grpc.items()},
    )


class Keeper:
    """Starts parts again that have ended by themselves, as an orchestrator would, until one does so too often."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._ends: defaultdict[str, list[float]] = defaultdict(list)
        self._due: dict[str, float] = {}

    def look(self) -> None:
        """Look at all parts once. StackFailed for one that cannot be kept up."""
        now = time.monotonic()
        for name, last_words in self._stack.ended().items():
            if name not in self._due:
                self._note_end(name, last_words, now)
            elif now >= self._due[name]:
                del self._due[name]
                self._stack.restart(name)

    def _note_end(self, name: str, last_words: str, now: float) -> None:
        self._ends[name] = [*(end for end in self._ends[name] if end > now - _WINDOW_SECONDS), now]
        if len(self._ends[name]) > _ENDS_LIMIT:
            raise StackFailed(f"{name} has ended {len(self._ends[name])} times in a minute. {last_words}")
        print(f"{last_words}\nStarting {name} again in {_RESTART_SECONDS:.0f} s.", flush=True)
        self._due[name] = now + _RESTART_SECONDS


def up() -> int:
    """Run until a signal. Answers the exit code: 0 after a signal, 1 with the reason where a part fails."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    settings = {} if os.environ.get("LOG_FORMAT") else {"DARKROOM_LOG_FORMAT": "pretty"}
    plan = Plan(folder=FOLDER / "up", ports=Ports.fixed(), settings=settings)
    stack = Stack(plan, tell=lambda step: print(f"  {step}", flush=True), show=_show)
    try:
        stack.start()
    except StackFailed as error:
        print(f"Darkroom cannot start: {error}", file=sys.stderr)
        return 1
    print(_banner(stack), flush=True)
    keeper = Keeper(stack)
    try:
        while not stopping.wait(_CHECK_SECONDS):
            keeper.look()
    except StackFailed as error:
        print(f"Darkroom stops: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        print("Stopping.", flush=True)
        stack.stop()
    return 0
