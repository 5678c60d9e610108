"""Processes that decode for a service, so that a bomb or a codec that crashes ends one of them and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from time import perf_counter
from typing import Literal

import structlog

from libs.common import metrics
from libs.common.errors import ErrorCode, GenerationError
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.frames import LENGTHS, READY, Crashed, outcome_of
from libs.common.imaging.picture import Prepared
from libs.common.imaging.places import FairPlaces
from libs.common.imaging.worker import WorkerLimits

log = structlog.get_logger()
# What a worker has gathered by then goes back to the system with it.
_JOBS_PER_WORKER = 1_000
_ANSWER_LIMIT_BYTES = 200_000_000
_RETRY_AFTER_SECONDS = 2.0
_START_SECONDS = 30.0
_PACKAGES = Path(__file__).resolve().parents[3]
ENVIRONMENT = {"LC_ALL": "C.UTF-8"}
"""All variables of a worker."""


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """The command that calls `main` of a module with `arguments`, in a Python that ignores its surroundings."""
    # Isolated mode ignores PYTHONPATH, so that the folder of our packages has to be named.
    program = f"import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; main(*sys.argv[2:])"
    return (sys.executable, "-I", "-c", program, str(_PACKAGES), *arguments)


class _Died(Exception):
    """A worker has ended in the middle of an image."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _Worker:
    """One process, which does one image at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._is_ready = False
        self.jobs = 0
        self.is_busy = False

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended, for whatever reason, while it had nothing to do."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @classmethod
    async def start(cls, limits: WorkerLimits) -> _Worker:
        """A new process. It gets none of our environment, where the secrets are."""
        process = await asyncio.create_subprocess_exec(
            *command("libs.common.imaging.worker", limits.to_json()),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=ENVIRONMENT,
        )
        return cls(process)

    async def get_ready(self) -> None:
        """Wait until it can take an image.

        Raises GenerationError SERVICE_UNAVAILABLE (retryable) where it never can: no image is to blame.
        """
        if self._is_ready:
            return
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._process.stdout.readexactly(len(READY))
        except (asyncio.IncompleteReadError, TimeoutError) as error:
            log.exception("image worker does not start", exit_code=self._process.returncode)
            raise _busy("images cannot be prepared at the moment") from error
        self._is_ready = True

    async def run(self, config: bytes, content: bytes) -> Prepared:
        """What becomes of an image. Raises as `outcome_of` does, and _Died where the process ends over it."""
        self.jobs += 1
        self.is_busy = True
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            requests.writelines((LENGTHS.pack(len(config), len(content)), config, content))
            await requests.drain()
            head_bytes, content_bytes = LENGTHS.unpack(await answers.readexactly(LENGTHS.size))
            if head_bytes + content_bytes > _ANSWER_LIMIT_BYTES:
                raise ValueError("a worker answers with more than an image can be")
            head = json.loads(await answers.readexactly(head_bytes))
            return outcome_of(head, await answers.readexactly(content_bytes))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise _Died(await self._process.wait()) from error
        finally:
            self.is_busy = False

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Workers:
    """A bounded number of workers, started when they are first needed and replaced when they die.

    Args:
        count: how many at most; each keeps one processor busy.
        limits: what each has.
        wall_seconds: how long one image may take in all, which a busy machine makes longer than its processor time.
        waiting: how many may wait for a worker; None: no bound.
    """

    def __init__(
        self, *, count: int, limits: WorkerLimits, wall_seconds: float = 120.0, waiting: int | None = None
    ) -> None:
        self._limits = limits
        self._wall_seconds = wall_seconds
        self._waiting = waiting
        # An image may take a minute: one worker is left for others, where there are several.
        self._places = FairPlaces(count, share=max(1, count - 1))
        self._held = 0
        self._most = count + (waiting or 0)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    @property
    def pids(self) -> frozenset[int]:
        """The processes that there are now."""
        return frozenset(worker.pid for worker in self._all)

    @property
    def busy_pids(self) -> frozenset[int]:
        """Those of them that work on an image."""
        return frozenset(worker.pid for worker in self._all if worker.is_busy)

    async def look_at_kernel(self) -> None:
        """Log each protection of workers that the kernel does not allow.

        Raises SystemExit where there are such and the limits require all of them.
        """
        missing = await _missing_protections()
        for protection, why in missing.items():
            log.warning("image workers lack a protection", protection=protection, why=why)
        if missing and self._limits.isolation == "required":
            names = ", ".join(missing)
            log.fatal("cannot start: protections of image workers are required and missing", protections=names)
            raise SystemExit(1)

    async def run(self, content: bytes, config: PreprocessConfig, owner: str = "") -> Prepared:
        """What becomes of an image of an owner: owners that wait for workers take fair turns.

        Raises ImageFault where the image is the reason that nothing does; GenerationError SERVICE_UNAVAILABLE
        (retryable) where the workers have too much to do, INTERNAL_ERROR where the work itself has a fault.
        """
        if self._waiting is not None and self._held >= self._most:
            raise _busy("too many images wait to be prepared")
        self._held += 1
        try:
            async with self._places.place(owner):
                return await self._observed(config.model_dump_json().encode(), content)
        finally:
            self._held -= 1

    async def _observed(self, config: bytes, content: bytes) -> Prepared:
        started, outcome = perf_counter(), "unavailable"
        try:
            prepared = await self._twice(config, content)
            outcome = "prepared"
        except ImageFault as fault:
            outcome = fault.rule
            raise
        finally:
            metrics.IMAGES.labels(outcome).inc()
            metrics.IMAGE_SECONDS.observe(perf_counter() - started)
        return prepared

    async def _twice(self, config: bytes, content: bytes) -> Prepared:
        """An image that a worker dies over gets another one, for the death may have had other reasons."""
        try:
            return await self._once(config, content)
        except _Died as death:
            _raise_if_too_long(death)
        try:
            return await self._once(config, content)
        except _Died as death:
            _raise_if_too_long(death)
            if _cause(death) == "killed":
                # Its own memory is bounded: this came from outside.
                raise _busy("the machine has too little memory") from death
            raise ImageFault("decoder_crashed", "makes its decoder crash") from death

    async def _once(self, config: bytes, content: bytes) -> Prepared:
        worker = await self._worker()
        is_fit = False
        try:
            async with asyncio.timeout(self._wall_seconds):
                await worker.get_ready()
                prepared = await worker.run(config, content)
            is_fit = True
            return prepared
        except ImageFault:
            is_fit = True
            raise
        except Crashed as fault:
            is_fit = True
            log.exception("preparing an image failed", fault=str(fault))
            raise GenerationError(ErrorCode.INTERNAL_ERROR, "Preparing an image failed by a fault of ours.") from fault
        except TimeoutError as error:
            raise _busy("an image took too long to prepare") from error
        except _Died as death:
            cause = _cause(death)
            metrics.IMAGE_WORKER_DEATHS.labels(cause).inc()
            log.warning("image worker died", exit_code=death.exit_code, cause=cause, size_bytes=len(content))
            raise
        finally:
            await self._give_back(worker, is_fit=is_fit)

    async def _worker(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            self._all.discard(worker)
        worker = await _Worker.start(self._limits)
        self._all.add(worker)
        return worker

    async def _give_back(self, worker: _Worker, *, is_fit: bool) -> None:
        if is_fit and worker.jobs < _JOBS_PER_WORKER:
            self._idle.append(worker)
            return
        self._all.discard(worker)
        await worker.end()

    async def close(self) -> None:
        """End all workers."""
        workers, self._all, self._idle = list(self._all), set(), []
        await asyncio.gather(*(worker.end() for worker in workers))


async def _missing_protections() -> dict[str, str]:
    """Why, by name, for each protection that a process does not get. Tried in one, for the process then lacks much."""
    process = await asyncio.create_subprocess_exec(
        *command("libs.common.isolation.confining"), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=ENVIRONMENT
    )
    try:
        async with asyncio.timeout(_START_SECONDS):
            answer, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return {"all": "the process that tries them does not answer"}
    try:
        return {str(name): str(why) for name, why in json.loads(answer).items()}
    except ValueError:
        return {"all": f"the process that tries them ended with status {process.returncode}"}


def _cause(death: _Died) -> Literal["cpu_time", "killed", "crashed"]:
    if death.exit_code == -signal.SIGXCPU:
        return "cpu_time"
    return "killed" if death.exit_code == -signal.SIGKILL else "crashed"


def _raise_if_too_long(death: _Died) -> None:
    if _cause(death) == "cpu_time":
        raise ImageFault("cpu_time", "takes longer to decode than an image may") from death


def _busy(why: str) -> GenerationError:
    return GenerationError(
        ErrorCode.SERVICE_UNAVAILABLE, f"Try again soon: {why}.", retry_after_seconds=_RETRY_AFTER_SECONDS
    )
