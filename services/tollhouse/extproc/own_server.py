"""What Triton's gRPC API tells of the server: answered here, for the whole gateway.

Of inference.GRPCInferenceService these three alone; Envoy leads nothing else here.
"""

import grpc.aio
from google.protobuf.message import Message

from tollhouse.core.inquiry import NAME, VERSION
from tollhouse.pb.tollhouse.triton.v1 import infer_pb2 as pb

_SERVICE = "inference.GRPCInferenceService"
_ANSWERS = {
    "ServerLive": pb.ServerLiveResponse(live=True),
    "ServerReady": pb.ServerReadyResponse(ready=True),
    "ServerMetadata": pb.ServerMetadataResponse(name=NAME, version=VERSION),
}


def add_to(server: grpc.aio.Server) -> None:
    """Register on a server."""
    methods = {name: _always(answer) for name, answer in _ANSWERS.items()}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(_SERVICE, methods)]
    )


def _always(answer: Message) -> "grpc.RpcMethodHandler[bytes, bytes]":
    said = answer.SerializeToString()

    async def method(_: bytes, __: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return said

    return grpc.unary_unary_rpc_method_handler(
        method, request_deserializer=None, response_serializer=None
    )
