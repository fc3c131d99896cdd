"""The bare shape: authz and extproc that decide nothing, for Tollhouse's own filters.

    python -m bench.bare authz|extproc SOCKET PROOF

Replies are made once; messages are not even parsed. What this costs is the price of
asking two Python services at all, on grpc.aio, uvloop and Unix sockets.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc
import uvloop
from google.protobuf import json_format

from tollhouse.pb.envoy.config.core.v3 import base_pb2 as core_pb
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as auth
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

_EXCHANGE = "0192f0c1-2345-7000-8000-000000000000"
_Context = grpc.aio.ServicerContext[bytes, bytes]
_Handlers = dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]


def _principal() -> bytes:
    response = auth.CheckResponse()
    response.ok_response.SetInParent()
    principal = {"tenant": "bare", "key_id": "bare", "plan": "bare", "scopes": "*"}
    json_format.ParseDict(principal, response.dynamic_metadata)
    return response.SerializeToString()


def _identified() -> bytes:
    response = ext_proc.ProcessingResponse()
    response.request_headers.response.SetInParent()
    named = {"exchange": _EXCHANGE, "tenant": "bare", "key_id": "bare"}
    json_format.ParseDict({"tollhouse": named}, response.dynamic_metadata)
    return response.SerializeToString()


def _admitted(proof: str) -> bytes:
    response = ext_proc.ProcessingResponse()
    common = response.request_body.response
    common.clear_route_cache = True
    headers = {"x-tollhouse-admitted": proof, "x-tollhouse-cluster": "tiny-chat"}
    for name, value in headers.items():
        option = common.header_mutation.set_headers.add()
        option.header.key, option.header.raw_value = name, value.encode()
        option.append_action = core_pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    admitted = {"tollhouse": {"admitted": True, "strip": True, "facts": "{}"}}
    json_format.ParseDict(admitted, response.dynamic_metadata)
    return response.SerializeToString()


def _authz() -> grpc.GenericRpcHandler:
    principal = _principal()

    async def check(_request: bytes, _context: _Context) -> bytes:
        return principal

    handlers: _Handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    return grpc.method_handlers_generic_handler(
        "envoy.service.auth.v3.Authorization", handlers
    )


def _extproc(proof: str) -> grpc.GenericRpcHandler:
    replies = (_identified(), _admitted(proof))

    async def process(
        requests: AsyncIterator[bytes], _context: _Context
    ) -> AsyncIterator[bytes]:
        for reply in replies:
            await anext(requests)
            yield reply

    handlers: _Handlers = {"Process": grpc.stream_stream_rpc_method_handler(process)}
    return grpc.method_handlers_generic_handler(
        "envoy.service.ext_proc.v3.ExternalProcessor", handlers
    )


async def _serve(service: str, socket: str, proof: str) -> None:
    server = grpc.aio.server()
    handler = _authz() if service == "authz" else _extproc(proof)
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:4]))
