"""ext_proc messages of a gRPC stream ↔ what comes and goes on it.

The stream's own filter is in full duplex: bodies come in pieces of any size, and what
goes on is sent in pieces of ours, whenever it was judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tollhouse.adapters.grpc_status import (
    to_binary_header,
    to_message_header,
    to_pb_status,
)
from tollhouse.core.admission_messages import Admit, RequestHeaders
from tollhouse.core.ids import ExchangeId
from tollhouse.core.problems import Problem, ProtocolError
from tollhouse.core.ratelimit import quota_fields
from tollhouse.core.usage import Facts
from tollhouse.extproc.convert import read_headers, set_headers
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

_OURS = "tollhouse"
REFUSAL = "tollhouse.refusal"
"""Namespace from which the meter words the trailers (envoy/meter_grpc.lua), and whose
`word` Envoy logs."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes the client sent; `ends`: it will send no more."""

    body: bytes
    ends: bool


def is_of_stream(message: ext_proc.ProcessingRequest) -> bool:
    """Whether it comes from the streams' filter, which runs after the other one."""
    return _OURS in message.metadata_context.filter_metadata


def from_pb_opening(
    message: ext_proc.ProcessingRequest,
) -> tuple[RequestHeaders, ExchangeId]:
    """Read the headers, and the exchange that was named before."""
    if message.WhichOneof("request") != "request_headers":
        raise ProtocolError("a stream that does not begin with its headers")
    fields = message.metadata_context.filter_metadata[_OURS].fields
    return read_headers(message), ExchangeId(fields["exchange"].string_value)


def from_pb_piece(message: ext_proc.ProcessingRequest) -> Piece:
    """Read what follows the headers. Raises ProtocolError for what can't."""
    match message.WhichOneof("request"):
        case "request_body":
            body = message.request_body
            return Piece(body.body, body.end_of_stream)
        case "request_trailers":
            return Piece(b"", ends=True)
        case kind:
            raise ProtocolError(f"unexpected ext_proc message: {kind}")


def to_pb_open(admit: Admit, exchange_id: str, proof: bytes) -> bytes:
    """The headers reply: the way to the cluster, the proof."""
    facts, granted = admit.facts, admit.granted
    response = ext_proc.ProcessingResponse()
    common = response.request_headers.response
    common.clear_route_cache = True
    set_headers(
        common.header_mutation,
        {
            "x-tollhouse-admitted": proof,
            "x-tollhouse-cluster": facts.cluster.encode(),
            "x-tollhouse-exchange": exchange_id.encode(),
        },
    )
    exchange = response.dynamic_metadata.fields[_OURS].struct_value.fields
    exchange["admitted"].bool_value = True
    exchange["model"].string_value = facts.served_model
    exchange["facts"].string_value = facts.encode().decode()
    quotas = quota_fields(granted.requests, granted.units)
    _put(response, "tollhouse.ratelimit", quotas)
    return response.SerializeToString()


def to_pb_piece(body: bytes, facts: Facts | None = None) -> bytes:
    """What goes on to the backend; `facts`: those of the exchange from now on."""
    response = ext_proc.ProcessingResponse()
    response.request_body.response.body_mutation.streamed_response.body = body
    if facts is not None:
        _put(response, _OURS, {"facts": facts.encode().decode()})
    return response.SerializeToString()


def to_pb_end(message: ext_proc.ProcessingRequest | None = None) -> bytes:
    """Nothing more goes on; `message`: the client's last, which may be trailers."""
    response = ext_proc.ProcessingResponse()
    if message is not None and message.HasField("request_trailers"):
        response.request_trailers.SetInParent()
    else:
        mutation = response.request_body.response.body_mutation
        mutation.streamed_response.end_of_stream = True
    return response.SerializeToString()


def to_pb_stop(problem: Problem, trace_id: str) -> bytes:
    """Nothing more goes on, and when what did is answered, the client is told why."""
    response = ext_proc.ProcessingResponse()
    mutation = response.request_body.response.body_mutation
    mutation.streamed_response.end_of_stream = True
    details = to_binary_header(to_pb_status(problem, trace_id))
    refusal = {
        "word": problem.word,
        "grpc_status": str(problem.kind.grpc_status),
        "grpc_message": to_message_header(problem.message),
        "grpc_status_details_bin": details.decode(),
    }
    _put(response, REFUSAL, refusal)
    return response.SerializeToString()


def _put(
    response: ext_proc.ProcessingResponse, namespace: str, values: Mapping[str, str]
) -> None:
    fields = response.dynamic_metadata.fields[namespace].struct_value.fields
    for name, value in values.items():
        fields[name].string_value = value
