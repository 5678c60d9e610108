"""`python -m bench.gateway.peers.server`: a bare grpc.aio server that answers CreateGeneration, with or without a row.

`--database` empty: an echo, the ceiling of what Python's gRPC can do here. Set: one INSERT and commit for each call, as
a team would write it first, on as many threads and connections as our gateway has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import sqlalchemy as sa
import uvloop
from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.json_format import MessageToDict

from libs.common.ids import new_id

_THREADS = 8
_METHOD = "/darkroom.gateway.v1.GenerationService/CreateGeneration"
_TABLE = """
CREATE TABLE IF NOT EXISTS requests (
    id text PRIMARY KEY, state text NOT NULL, model text NOT NULL, prompt text NOT NULL, parameters jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now())"""
_INSERT = sa.text("""
INSERT INTO requests (id, state, model, prompt, parameters)
VALUES (:id, 'PENDING', :model, :prompt, CAST(:parameters AS jsonb))""")


class Peer(grpc.GenericRpcHandler):
    """The one method."""

    def __init__(self, database_url: str) -> None:
        self._engine = sa.create_engine(database_url, pool_size=_THREADS, max_overflow=0) if database_url else None
        self._threads = ThreadPoolExecutor(_THREADS)
        if self._engine is not None:
            with self._engine.begin() as connection:
                connection.execute(sa.text(_TABLE))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Our method, and no other."""
        if handler_call_details.method != _METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._create,
            gateway_pb2.CreateGenerationRequest.FromString,
            gateway_pb2.CreateGenerationResponse.SerializeToString,
        )

    async def _create(
        self, request: gateway_pb2.CreateGenerationRequest, _: Any
    ) -> gateway_pb2.CreateGenerationResponse:
        generation_id = new_id("gen")
        if self._engine is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._insert, generation_id, request)
        return gateway_pb2.CreateGenerationResponse(id=generation_id, status=gateway_pb2.GENERATION_STATUS_PENDING)

    def _insert(self, generation_id: str, request: gateway_pb2.CreateGenerationRequest) -> None:
        assert self._engine is not None
        row = {
            "id": generation_id,
            "model": request.model_identifier,
            "prompt": request.prompt,
            "parameters": json.dumps(MessageToDict(request.parameters)),
        }
        with self._engine.begin() as connection:
            connection.execute(_INSERT, row)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", default="")
    given = parser.parse_args()

    async def serve() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Peer(given.database),))
        server.add_insecure_port(f"127.0.0.1:{given.port}")
        await server.start()
        await server.wait_for_termination()

    uvloop.run(serve())


if __name__ == "__main__":
    main()
