"""What simulated vendors share: taking a submit, looking at a task, serving its files under expiring URLs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

from aiohttp import web

from sandbox.simulators import faults, files, pictures, received, videos, webhooks
from sandbox.simulators.behaviour import ENDS, Behaviour, FaultKind
from sandbox.simulators.received import PictureRules, Source
from sandbox.simulators.webhooks import Webhook
from sandbox.simulators.world import SimulatedTask, World

Kind = Literal["png", "jpeg", "webp", "mp4"]
_SIGNING_KEY = b"simulated signature of result urls"
_TYPES = {"mp4": "video/mp4"}
_EXPIRED = "<Error><Code>AuthenticationFailed</Code></Error>"


class Vendor(ABC):
    """Base of the simulators.

    Args:
        world: what it remembers.
        credentials: by the names that its adapter uses, those that it lets in.
        prefix: the path under which it is served.
    """

    name: ClassVar[str]
    files: ClassVar[str] = "/files/{task_id}/{index}.{kind}"
    """Where an output lies."""
    file_seconds: ClassVar[float | None] = None
    """How long its URL lives. None: as the task's behaviour says."""
    image_rules: ClassVar[PictureRules] = PictureRules()
    """What pictures to start from have to be."""

    def __init__(self, world: World, credentials: Mapping[str, str], prefix: str) -> None:
        self.world = world
        self.credentials = credentials
        self._prefix = prefix
        self._reports: set[asyncio.Task[None]] = set()

    def routes(self) -> list[web.RouteDef]:
        """What the vendor serves, files included."""
        return [web.get(self.files, self._file)]

    @abstractmethod
    def error(self, status: int, text: str) -> web.Response:
        """The vendor's error reply."""

    def base(self, request: web.Request) -> str:
        """The URL below which the vendor is served."""
        return f"{request.scheme}://{request.host}{self._prefix}"

    async def take(
        self,
        request: web.Request,
        *,
        model: str,
        prompt: str,
        body: dict[str, Any],
        price_usd: float,
        outputs: int = 1,
        until_done: bool = False,
        client_id: str | None = None,
        webhook: str | None = None,
        images: Sequence[Source] = (),
        image_rules: PictureRules | None = None,
    ) -> SimulatedTask | web.StreamResponse:
        """Accept and bill a submit, or answer with the fault that its behaviour asks for.

        `until_done`: the answer comes when the task has ended. `webhook`: where to report that. `images`: what it
        starts from, of which `image_rules` hold; None: the vendor's own.
        """
        refusal = await self._received(prompt, images, image_rules or self.image_rules)
        if refusal is not None:
            return refusal
        behaviour = self.world.behaviour_for(prompt)
        struck = await faults.strike(request, behaviour, self.world.chance(prompt), self.error)
        if struck is not None:
            return struck
        task_id = f"{self.name}-{uuid.uuid4().hex}"
        self.world.add_task(
            self.name,
            task_id=task_id,
            model=model,
            prompt=prompt,
            request=body,
            behaviour=behaviour,
            client_id=client_id,
            failure=None if until_done else _failure(task_id, prompt, behaviour),
            inputs=len(images),
            answers_with_outputs=until_done,
        )
        self.world.bill(self.name, task_id=task_id, model=model, prompt=prompt, outputs=outputs, price_usd=price_usd)
        if webhook is not None:
            self._report_later(request, task_id, webhook)
        await asyncio.sleep(behaviour.submit_seconds + (behaviour.task_seconds if until_done else 0.0))
        struck = await faults.strike(request, behaviour, self.world.chance(prompt), self.error, after=True)
        if struck is not None:
            return struck
        task = self.world.task(self.name, task_id)
        return task if task is not None else self.error(500, "The task is gone.")

    async def _received(self, prompt: str, images: Sequence[Source], rules: PictureRules) -> web.StreamResponse | None:
        """Look at the pictures of a request. The vendor's refusal where it takes one of them not."""
        try:
            found = await received.contents(images)
            for picture in found:
                await received.check(picture, rules)
        except ValueError as error:
            return self.error(400, f"Invalid image: {error}")
        if images:
            self.world.note_pictures(prompt, found)
        return None

    def webhook(self, request: web.Request, task: SimulatedTask) -> Webhook | None:
        """What the vendor sends when a task has ended. None: it sends nothing."""
        return None

    def _report_later(self, request: web.Request, task_id: str, url: str) -> None:
        report = asyncio.create_task(self._report(request, task_id, url))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)

    async def _report(self, request: web.Request, task_id: str, url: str) -> None:
        task = self.world.task(self.name, task_id)
        while task is not None and time.time() < task.ready_at:
            await asyncio.sleep(task.ready_at - time.time())
            # A cancel brings the end forward.
            task = self.world.task(self.name, task_id)
        if task is None:
            return
        webhook, chance = self.webhook(request, task), self.world.chance(task.prompt)
        if webhook is None or chance() < task.behaviour.webhooks_lost:
            return
        for _ in range(2 if chance() < task.behaviour.webhooks_doubled else 1):
            await webhooks.deliver(url, webhook)

    async def look(self, request: web.Request, task_id: str) -> SimulatedTask | web.StreamResponse:
        """A task that is asked for, or the reply of a fault, or that there is none."""
        task = self.world.task(self.name, task_id)
        if task is None:
            return self.error(404, "Not found.")
        fault = task.behaviour.fault("check", self.world.chance(task.prompt))
        self.world.save_behaviour(task)
        if fault is not None:
            return await faults.reply_with(fault, request, self.error, task_id=task_id)
        await asyncio.sleep(task.behaviour.check_wait_seconds)
        return task

    @staticmethod
    def share(task: SimulatedTask) -> float:
        """How far a task is, 0 to 1."""
        if time.time() >= task.ready_at:
            return 1.0
        return (time.time() - task.created_at) / max(0.001, task.ready_at - task.created_at)

    def file_url(self, request: web.Request, task: SimulatedTask, index: int, kind: Kind) -> str:
        """Where an output can be read for a while."""
        seconds = task.behaviour.result_seconds if self.file_seconds is None else self.file_seconds
        expires = int(time.time() + seconds)
        path = self.files.format(task_id=task.task_id, index=index, kind=kind)
        return f"{self.base(request)}{path}?se={expires}&sig={_signature(path, expires)}"

    async def made(self, task: SimulatedTask, index: int, kind: Kind) -> bytes:
        """An output's file: what `draw` draws, or what the behaviour asks for in its place."""
        content = await self.draw(task, index, kind)
        odd = task.behaviour.output_files.get(str(index))
        return content if odd is None else await asyncio.to_thread(files.made, odd, content)

    async def draw(self, task: SimulatedTask, index: int, kind: Kind) -> bytes:
        """An output: a picture or a video with the prompt on it."""
        if kind == "mp4":
            return await asyncio.to_thread(videos.draw, task.prompt, index)
        return await asyncio.to_thread(pictures.draw, task.prompt, index, 1024, 1024, kind)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        task_id, index, kind = (request.match_info[name] for name in ("task_id", "index", "kind"))
        path = self.files.format(task_id=task_id, index=index, kind=kind)
        expires = int(request.query.get("se", "0"))
        task = self.world.task(self.name, task_id)
        signed = hmac.compare_digest(request.query.get("sig", ""), _signature(path, expires))
        if task is None or not signed:
            return _expired("403")
        if expires < time.time():
            return _expired(task.behaviour.expired_reply)
        # The signature vouches for the path, so the kind is one that was given out.
        return await self.serve(request, task, int(index), cast("Kind", kind))

    async def serve(self, request: web.Request, task: SimulatedTask, index: int, kind: Kind) -> web.StreamResponse:
        """The bytes of an output, or the fault that strikes."""
        fault = task.behaviour.fault("result", self.world.chance(task.prompt))
        self.world.save_behaviour(task)
        is_half = fault is not None and fault.kind is FaultKind.HALF
        if fault is not None and not is_half:
            return await faults.reply_with(fault, request, self.error)
        await asyncio.sleep(task.behaviour.result_wait_seconds)
        if task.behaviour.output_files.get(str(index)) == "gone":
            return self.error(404, "Not found.")
        content = await self.made(task, index, kind)
        if is_half:
            # As a host answers that is still writing the file.
            content = content[: len(content) // 2]
        return web.Response(body=content, content_type=_TYPES.get(kind, f"image/{kind}"))


def _expired(kind: str) -> web.Response:
    """The reply of a result's host to a URL that has expired."""
    if kind == "html":
        return web.Response(body=files.HTML, content_type="text/html")
    return web.Response(status=int(kind), text=_EXPIRED, content_type="text/xml")


def _failure(task_id: str, prompt: str, behaviour: Behaviour) -> str | None:
    """`moderated` or `failed` for a task that ends so."""
    chance = random.Random(f"{task_id if behaviour.seed is None else behaviour.seed}/{prompt}/end").random()
    for fault in behaviour.faults:
        if fault.operation == "result" and fault.kind in ENDS and chance < fault.probability:
            return fault.kind.value
    return None


def _signature(path: str, expires: int) -> str:
    return hmac.new(_SIGNING_KEY, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
