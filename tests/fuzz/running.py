"""Performs cases against a running gateway, and judges what comes back."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from random import Random

import grpc

from tests.fuzz import frames, oracles, rpcs
from tests.fuzz.report import Key, Report
from tests.fuzz.requests import Sent
from tests.fuzz.setting_up import Grammars
from tests.fuzz.wire import Answer, Wire
from tests.support.running import Running

_TARGET = re.compile(rb"^\S{1,20} (/[^\s?]{0,80})")
_ID = re.compile(r"(gen|batch|key|exp|err|alert|sil|sub|cb|log|var)_?[0-9a-zA-Z]{10,}")


class Player:
    """Performs them.

    Args:
        running: the stack.
        grammars: what makes cases.
        report: where faults are noted.
    """

    def __init__(self, running: Running, grammars: Grammars, report: Report) -> None:
        self._grammars = grammars
        self._report = report
        self._run = secrets.token_hex(4)
        self._http_port = running.stack.plan.ports.gateway_http
        self._grpc_port = running.gateway_port()
        self._channels = {
            role: grpc.aio.insecure_channel(f"127.0.0.1:{self._grpc_port}", [("fuzz", role)])
            for role in ("nobody", "client", "poor", "admin")
        }
        self.refused: list[str] = []
        """The ids of requests that have been refused since the list was last emptied."""
        self.made_keys = 0

    def wire(self) -> Wire:
        """One client's connection."""
        return Wire(self._http_port)

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()

    async def play(self, key: Key, wire: Wire) -> None:
        """Make a case, perform it, and note what is wrong with its answer."""
        random = Random(f"{self._report.seed}/{key}")
        request_id = f"fuzz-{self._run}-{key.face}-{key.role}-{key.number}"
        if key.face == "grpc":
            await self._call(key, random, request_id)
        elif key.face == "frames":
            fault = await frames.send(self._grpc_port, frames.case(self._grammars.world, key.role, random))
            self._report.note(key, fault or "sent")
            if fault:
                self._report.find(fault, str(key))
        else:
            sent = self._made(key, random)
            answer = await wire.exchange(_with_id(sent, request_id))
            self._judge(key, sent, answer)

    def _made(self, key: Key, random: Random) -> Sent:
        grammars = self._grammars
        match key.face:
            case "rest":
                return grammars.rest.case(key.role, random)
            case "openai":
                return grammars.openai.case(key.role, random)
            case "webhooks":
                return grammars.webhooks.case(key.role, random)
            case _:
                return grammars.console.case(key.role, random)

    def _judge(self, key: Key, sent: Sent, answer: Answer) -> None:
        self._report.note(key, {0: "closed", -1: "none"}.get(answer.status, str(answer.status)))
        request_id = answer.headers.get("x-request-id", "")
        if oracles.is_refusal(answer) and request_id.startswith("fuzz-"):
            self.refused.append(request_id)
        for fault in oracles.faults_of(key.face, sent, answer):
            target = _TARGET.search(sent.raw)
            route = _ID.sub("{id}", target[1].decode("latin-1")) if target else "?"
            told = self._grammars.world.hidden(
                f"{key} {route} {sent.raw[:700]!r} -> {answer.status} {answer.body[:300]!r}"
            )
            self._report.find(f"{key.face} {answer.status}: {fault[:300]}", told)

    async def _call(self, key: Key, random: Random, request_id: str) -> None:
        call = self._grammars.rpcs.case(key.role, random, request_id)
        outcome = await rpcs.perform(self._channels[key.role], call)
        self._report.note(key, outcome.code.name)
        if rpcs.is_refusal(outcome) and sum(name == "x-request-id" for name, _ in call.metadata) == 1:
            self.refused.append(request_id)
        for fault in rpcs.faults_of(call, outcome):
            told = f"{key} {[content[:200] for content in call.contents]!r} {call.metadata[1:]!r} -> {outcome.code.name} {outcome.text[:400]}"
            self._report.find(f"grpc {call.path[:100]}: {fault}", self._grammars.world.hidden(told))


def _with_id(sent: Sent, request_id: str) -> Sent:
    line, end, rest = sent.raw.partition(b"\r\n")
    if not end or b" HTTP/1." not in line:
        return sent
    return replace(sent, raw=line + b"\r\nx-request-id: " + request_id.encode() + b"\r\n" + rest)
