"""fal.ai's queue. Source: docs.fal.ai."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from sandbox.simulators import faults
from sandbox.simulators.signing import FalSigner
from sandbox.simulators.vendor import Vendor
from sandbox.simulators.webhooks import Webhook
from sandbox.simulators.world import SimulatedTask, World


class Fal(Vendor):
    """The vendor's routes: an app is `owner/name` with an optional path; its requests lie below `owner/name`."""

    name = "fal"

    def __init__(self, world: World, credentials: Mapping[str, str], prefix: str) -> None:
        super().__init__(world, credentials, prefix)
        self._signer = FalSigner(credentials["api_key"])

    def routes(self) -> list[web.RouteDef]:
        """What the vendor serves."""
        below = "/{owner}/{app}/requests/{task_id}"
        return [
            *super().routes(),
            web.get(f"{below}/status", self._status),
            web.get(below, self._response),
            web.put(f"{below}/cancel", self._cancel),
            web.get("/.well-known/jwks.json", self._keys),
            web.post("/{owner}/{app}{path:.*}", self._submit),
        ]

    def error(self, status: int, text: str) -> web.Response:
        """A detail."""
        return web.json_response({"detail": text}, status=status, headers={"x-fal-error-type": "simulated"})

    def _lets_in(self, request: web.Request) -> bool:
        return request.headers.get("authorization") == f"Key {self.credentials['api_key']}"

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(401, "Cannot access application. Authentication is required.")
        try:
            body = await request.json()
        except ValueError:
            return self.error(422, "The body is not JSON")
        prompt = body.get("prompt") if isinstance(body, dict) else None
        if not isinstance(prompt, str) or not prompt:
            detail = [{"loc": ["body", "prompt"], "msg": "field required", "type": "value_error.missing"}]
            return web.json_response({"detail": detail}, status=422)
        app = f"{request.match_info['owner']}/{request.match_info['app']}"
        taken = await self.take(
            request,
            model=app + request.match_info["path"],
            prompt=prompt,
            body={key: value for key, value in body.items() if key != "image_url"},
            outputs=int(body.get("num_images", 1)),
            price_usd=0.025 * int(body.get("num_images", 1)),
            webhook=request.query.get("fal_webhook"),
            images=[body["image_url"]] if "image_url" in body else [],
        )
        if not isinstance(taken, SimulatedTask):
            return taken
        url = f"{self.base(request)}/{app}/requests/{taken.task_id}"
        urls = {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}
        return web.json_response({"request_id": taken.task_id, **urls, "queue_position": 0})

    async def _status(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return self.error(401, "Authentication is required.")
        task = await self.look(request, request.match_info["task_id"])
        if not isinstance(task, SimulatedTask):
            return task
        share = self.share(task)
        word = "IN_QUEUE" if share < 0.2 else "IN_PROGRESS" if share < 1 else "COMPLETED"
        url = str(request.url.with_query(None)).removesuffix("/status")
        body: dict[str, Any] = {
            "status": word,
            "request_id": task.task_id,
            "response_url": url,
            "status_url": f"{url}/status",
        }
        more: dict[str, dict[str, Any]] = {
            "IN_QUEUE": {"queue_position": 0},
            "IN_PROGRESS": {"logs": None},
            "COMPLETED": {"logs": None, "metrics": {}},
        }
        body |= more[word]
        return web.json_response(body, status=200 if share == 1 else 202)

    async def _response(self, request: web.Request) -> web.StreamResponse:
        task = self.world.task(self.name, request.match_info["task_id"])
        if not self._lets_in(request) or task is None or self.share(task) < 1:
            return self.error(400, "Request is still in progress")
        fault = task.behaviour.fault("response", self.world.chance(task.prompt))
        self.world.save_behaviour(task)
        if fault is not None:
            return await faults.reply_with(fault, request, self.error)
        return self._outcome(request, task)

    async def _keys(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": self._signer.public}]})

    def webhook(self, request: web.Request, task: SimulatedTask) -> Webhook:
        """The outcome, signed with Ed25519."""
        outcome = self._outcome(request, task)
        payload = json.loads(outcome.body) if isinstance(outcome.body, bytes) else None
        facts: dict[str, Any] = {"status": "OK", "payload": payload}
        if outcome.status != 200:
            facts = {"status": "ERROR", "error": "the app has failed", "payload": payload}
        body = json.dumps({"request_id": task.task_id, "gateway_request_id": task.task_id, **facts}).encode()
        return Webhook(self._signer.headers(task.task_id, body), body)

    def _outcome(self, request: web.Request, task: SimulatedTask) -> web.Response:
        if task.cancelled:
            return self.error(422, "The request was cancelled.")
        failure = task.failure
        if failure == "moderated":
            detail = [
                {"loc": ["body", "prompt"], "msg": "The content was flagged.", "type": "content_policy_violation"}
            ]
            return web.json_response({"detail": detail}, status=422)
        if failure:
            return self.error(422, "The app has failed.")
        if "video" in task.model:
            return web.json_response({"video": {"url": self.file_url(request, task, 0, "mp4")}})
        count = int(task.request.get("num_images", 1))
        files = [
            {"url": self.file_url(request, task, index, "jpeg"), "width": 1024, "height": 1024}
            for index in range(count)
        ]
        return web.json_response({"images": files, "seed": 42, "prompt": task.prompt})

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        task = self.world.task(self.name, request.match_info["task_id"])
        if not self._lets_in(request) or task is None:
            return self.error(404, "Not found")
        if not self.world.cancel(task.task_id):
            return web.json_response({"status": "ALREADY_COMPLETED"}, status=400)
        return web.json_response({"status": "CANCELLATION_REQUESTED"}, status=202)
