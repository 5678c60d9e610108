"""Callbacks as their owners see them: listed, replayed, and the secret that they are signed with."""

from __future__ import annotations

from darkroom.gateway.v1 import gateway_pb2

from libs.common.api_keys import callback_secret
from libs.common.database.states import CallbackState
from libs.common.database.stores.callbacks import CallbackStore
from libs.common.errors import FieldViolation, InvalidRequest, NotFound
from libs.common.rpc.pages import page, page_size, page_start
from libs.common.rpc.requests import ID_LIMIT, raise_for, text_faults
from services.gateway.access import Caller
from services.gateway.messages import callback_message

_STATES = {gateway_pb2.CallbackState.Value(f"CALLBACK_STATE_{state.value}"): state for state in CallbackState}


class Callbacks:
    """What the gateway does about callbacks.

    Args:
        store: where they are.
        secret: what the secrets of keys follow from.
    """

    def __init__(self, store: CallbackStore, *, secret: str) -> None:
        self._store = store
        self._secret = secret

    async def list_page(
        self, request: gateway_pb2.ListCallbacksRequest, caller: Caller
    ) -> gateway_pb2.ListCallbacksResponse:
        """A page of the caller's callbacks. InvalidRequest with what is wrong with the filters."""
        size, before = page_size(request), page_start(request)
        state = _STATES.get(request.state)
        if request.state and state is None:
            raise InvalidRequest([FieldViolation("state", "one_of", "must be one of the states")])
        ids = {name: getattr(request, name) for name in ("generation_id", "batch_id")}
        raise_for(text_faults(ids, dict.fromkeys(ids, ID_LIMIT)))
        found = await self._store.list_page(
            size + 1,
            owner=caller.sees,
            generation_id=request.generation_id or None,
            batch_id=request.batch_id or None,
            state=state,
            before=before,
        )
        records, next_token = page(found, size)
        return gateway_pb2.ListCallbacksResponse(
            callbacks=[callback_message(record) for record in records], next_page_token=next_token
        )

    async def replay(self, callback_id: str, caller: Caller) -> gateway_pb2.Callback:
        """Deliver one again. NotFound where the caller has none such."""
        record = await self._store.replay(callback_id, owner=caller.sees)
        if record is None:
            raise NotFound("id", f"There is no callback {callback_id[:100]!r}.")
        return callback_message(record)

    def secret_of(self, caller: Caller) -> str:
        """What the callbacks of the caller's key are signed with."""
        return callback_secret(caller.key_id, self._secret)
