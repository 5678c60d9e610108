"""Deadlines of RPCs, and the error of a call that exceeds its deadline: whether it changed anything is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from libs.common.errors import MAPPINGS, ErrorCode, GenerationError, OutcomeUnknown
from libs.common.rpc.context import IDEMPOTENCY_KEY_HEADER, metadata_of_context
from libs.common.rpc.interceptors import Context, Wrapper

GRACE_SECONDS = 2.0
"""How much longer than the server a caller within Darkroom waits: the server's answer says whether a repeat is safe."""
_WITH_KEY = "Repeat the call with the same idempotency key: nothing is created twice."
_WITHOUT_KEY = "Read the current state before you repeat the call."
_REPEATABLE = {MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT}


class Deadline(Wrapper):
    """Bounds each unary call by the caller's deadline and by `seconds`, whichever ends first.

    A call that may have changed something and is cut off ends with OUTCOME_UNKNOWN, since the transaction that it waits
    for goes on; it is retryable only if it carried an idempotency key. A call that is declared to change nothing ends
    with DEADLINE_EXCEEDED, which is retryable.

    A call that takes a stream of requests takes as long as that does; its handler bounds the wait for each message.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def unary(self, method: str, behaviour: Any) -> Any:
        """See the class."""
        changes_nothing = is_repeatable(method)

        async def wrapped(request: Any, context: Context) -> Any:
            call = _Call(changes_nothing=changes_nothing, context=context)
            with call.explained():
                if hasattr(request, "__aiter__"):
                    return await behaviour(call.noting(request), context)
                call.note(request)
                return await self._bounded(behaviour, request, call)

        return wrapped

    def stream(self, method: str, behaviour: Any) -> Any:
        """Without a bound: a stream of answers lasts as long as there is something to watch."""
        if not is_repeatable(method):
            return behaviour

        async def wrapped(request: Any, context: Context) -> AsyncIterator[Any]:
            with _Call(changes_nothing=True, context=context).explained():
                async for answer in behaviour(request, context):
                    yield answer

        return wrapped

    async def _bounded(self, behaviour: Any, request: Any, call: _Call) -> Any:
        # None for a caller without a deadline, whatever the stubs say.
        given = cast("float | None", call.context.time_remaining())
        seconds = self._seconds if given is None else min(self._seconds, given)
        bound = asyncio.timeout(seconds)
        try:
            async with bound:
                return await behaviour(request, call.context)
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise call.overdue(seconds) from error


class _Call:
    """A call that is being answered, and whether it may be repeated."""

    def __init__(self, *, changes_nothing: bool, context: Context) -> None:
        self._changes_nothing = changes_nothing
        self.context = context
        self._takes_key = self._has_key = False

    def note(self, request: Any) -> None:
        """Look whether a message carries an idempotency key, where the RPC takes one."""
        if "idempotency_key" in request.DESCRIPTOR.fields_by_name:
            self._takes_key = True
            self._has_key |= bool(request.idempotency_key)

    @property
    def has_key(self) -> bool:
        """Whether an idempotency key came with it, in a message or in the metadata."""
        in_metadata = metadata_of_context(self.context).get(IDEMPOTENCY_KEY_HEADER)
        return self._has_key or (self._takes_key and bool(in_metadata))

    async def noting(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages of a stream, each looked at."""
        async for request in requests:
            self.note(request)
            yield request

    def overdue(self, seconds: float) -> GenerationError:
        """The error for a call that took longer than `seconds`."""
        late = f"The call did not end within {seconds:.3g} s"
        if self._changes_nothing:
            return GenerationError(ErrorCode.DEADLINE_EXCEEDED, f"{late}; it changes nothing and can be repeated.")
        return OutcomeUnknown(f"{late}; it may still be carried out.")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say of an unknown outcome whether this call may be repeated, and what to do before."""
        try:
            yield
        except OutcomeUnknown as error:
            if self._changes_nothing:
                raise GenerationError(
                    ErrorCode.SERVICE_UNAVAILABLE, "The database went away during the call.", error.details
                ) from error
            advice = _WITH_KEY if self.has_key else _WITHOUT_KEY
            raise OutcomeUnknown(f"{error.message} {advice}", error.details, is_retryable=self.has_key) from error


@contextmanager
def after_commit(**ids: str) -> Iterator[None]:
    """Report a failure after a commit as an unknown outcome: UNAVAILABLE would say that nothing was committed.

    Args:
        ids: the ids of what was committed, for the error's details.
    """
    try:
        yield
    except GenerationError as error:
        if MAPPINGS[error.code].grpc_status is not grpc.StatusCode.UNAVAILABLE:
            raise
        message = f"The change was committed, and reading it for the answer failed: {error.message}"
        raise OutcomeUnknown(message, {**error.details, **ids}) from error


def is_repeatable(method: str) -> bool:
    """Whether `/package.Service/Method` is declared, in its proto, to change nothing or to be idempotent."""
    try:
        found = descriptor_pool.Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
    except KeyError:
        return False
    return found.GetOptions().idempotency_level in _REPEATABLE
