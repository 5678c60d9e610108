"""A process of the stack with its log: started, watched, killed and started again."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sandbox import processes
from sandbox.processes import Process, Start

Show = Callable[[str, str], None]
"""Takes the name of a process and a line that it logged."""

_TAIL_LINES = 30


class Child:
    """One process.

    Args:
        name: for people.
        command: what to run; `python` stands for the Python that runs this.
        environment: all of its environment.
        log: the file to which its output is appended.
        show: is also given each line of output; None: the file is enough.
        start: starts the process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path,
        show: Show | None = None,
        start: Start = processes.start,
    ) -> None:
        self.name = name
        self._command = [sys.executable if part == "python" else part for part in command]
        self._environment = dict(environment)
        self._log = log
        self._show = show
        self._start = start
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: Process | None = None
        self._reader: threading.Thread | None = None

    def start(self, extra: Mapping[str, str] | None = None) -> int:
        """Start it, with further variables in its environment if given, and answer its process id."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._tail.clear()
        self._process = self._start(self._command, environment=self._environment | dict(extra or {}))
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        return self._process.pid

    @property
    def pid(self) -> int:
        """The id of the process that was started last."""
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs. A negative number is the signal that killed it."""
        return self._started().poll()

    @property
    def tail(self) -> str:
        """The last lines that it logged."""
        return "\n".join(self._tail)

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._started().send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._started().send_signal(signal.SIGKILL)
        self.wait(10)

    def wait(self, timeout_seconds: float) -> int:
        """Wait until it has ended and answer its exit code. subprocess.TimeoutExpired where it does not."""
        code = self._started().wait(timeout_seconds)
        if self._reader is not None:
            self._reader.join(timeout_seconds)
        return code

    def stop(self, timeout_seconds: float) -> int | None:
        """Ask it to end, and end it by force if it does not. Answers its exit code; None if it never ran."""
        if self._process is None:
            return None
        processes.stop(self._process, timeout_seconds=timeout_seconds)
        return self.wait(10)

    def _started(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    def _read(self, process: Process) -> None:
        if process.stdout is None:
            return
        with self._log.open("ab", buffering=0) as log, process.stdout:
            for raw in process.stdout:
                log.write(raw)
                line = raw.decode(errors="replace").rstrip(os.linesep)
                self._tail.append(line)
                if self._show is not None:
                    self._show(self.name, line)
