"""ext_proc messages ↔ the admission's events and commands.

The only module of this service that touches protobuf field by field. Header values
travel in `raw_value`: Envoy takes `value` for an empty header (ext_proc's
HeaderValue contract). Replies are serialised here; the server sends bytes.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from tollhouse.adapters.grpc_calls import InferCall, ModelCall
from tollhouse.adapters.grpc_status import to_binary_header, to_pb_status
from tollhouse.core.admission_messages import (
    Admit,
    Answer,
    Identify,
    ModelNamed,
    RequestBody,
    RequestHeaders,
    RequestRead,
)
from tollhouse.core.catalog import Operation, Provider
from tollhouse.core.identity import Principal, parse_scopes
from tollhouse.core.inquiry import Pass
from tollhouse.core.problems import Dialect, Problem, ProtocolError
from tollhouse.core.ratelimit import quota_fields
from tollhouse.core.surface import find
from tollhouse.pb.envoy.config.core.v3 import base_pb2 as core_pb
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

HEAD = "inference-header-content-length"
"""Where the JSON of a body with binary tensors ends (Triton's HTTP protocol)."""
_PRINCIPAL = "envoy.filters.http.ext_authz"
# As Envoy tells gRPC from the rest (Grpc::Common::isGrpcRequestHeaders).
_GRPC = re.compile(rb"application/grpc(\+.*)?")
_HOLD_MARGIN_SECONDS = 1.0
"""For our own work after a hold; Envoy's usual patience with a message."""
_OVERWRITE = core_pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def from_pb_request(
    message: ext_proc.ProcessingRequest, headers: RequestHeaders | None
) -> RequestHeaders | RequestBody | RequestRead | ModelNamed:
    """Read a message; `headers`: those that came before, if it is not they.

    Raises ProtocolError for one the edge is not set up to send.
    """
    match message.WhichOneof("request"):
        case "request_headers":
            return read_headers(message)
        case "request_body" if headers is not None:
            # Whole, because the edge buffers it (check-config sees to that); not the
            # end of the stream where a client's trailers follow, which nobody reads.
            return _read_body(message.request_body.body, headers)
        case kind:
            raise ProtocolError(f"unexpected ext_proc message: {kind}")


def _read_body(
    body: bytes, headers: RequestHeaders
) -> RequestBody | RequestRead | ModelNamed:
    if not headers.is_grpc:
        return RequestBody(body)
    place = find(headers.method, headers.path)
    if place is not None and place.endpoint.operation is Operation.INFER:
        return RequestRead(InferCall(body))
    return ModelNamed(ModelCall(body))


def to_pb_identify(command: Identify) -> bytes:
    """The headers reply: go on, and put the exchange where the ledger sees it."""
    response = ext_proc.ProcessingResponse()
    response.request_headers.response.status = ext_proc.CommonResponse.CONTINUE
    exchange = response.dynamic_metadata.fields["tollhouse"].struct_value.fields
    exchange["exchange"].string_value = command.exchange_id
    exchange["tenant"].string_value = command.principal.tenant
    exchange["key_id"].string_value = command.principal.key_id
    return response.SerializeToString()


def to_pb_read_on() -> bytes:
    """The headers reply where there is no exchange."""
    response = ext_proc.ProcessingResponse()
    response.request_headers.response.status = ext_proc.CommonResponse.CONTINUE
    return response.SerializeToString()


def to_pb_admit(command: Admit, exchange_id: str, proof: bytes) -> bytes:
    """The body reply: the judged body, the way to the cluster, the proof."""
    response = ext_proc.ProcessingResponse()
    common = response.request_body.response
    common.body_mutation.body = command.body
    headers = {
        "x-tollhouse-exchange": exchange_id.encode(),
        # A replaced body of another length is a 500 unless this follows it.
        "content-length": b"%d" % len(command.body),
    }
    if command.head_bytes is not None:
        headers[HEAD] = b"%d" % command.head_bytes
    set_headers(common.header_mutation, headers)
    metadata = response.dynamic_metadata.fields
    exchange = metadata["tollhouse"].struct_value.fields
    exchange["admitted"].bool_value = True
    exchange["strip"].bool_value = command.strip
    exchange["foreign"].bool_value = command.facts.provider == Provider.OPENAI
    exchange["model"].string_value = command.facts.served_model
    exchange["facts"].string_value = command.facts.encode().decode()
    if command.path:
        exchange["path"].string_value = command.path
    granted = command.granted
    limits = metadata["tollhouse.ratelimit"].struct_value.fields
    for name, value in quota_fields(granted.requests, granted.units).items():
        limits[name].string_value = value
    # Two serialised messages one after the other are one message (Protocol Buffers,
    # "Merging"): what is the same for every request is serialised once.
    way = _way(command.cluster, command.content_type, command.injected, proof)
    return way + response.SerializeToString()


@lru_cache(maxsize=1024)
def _way(cluster: str, content_type: str, injected: bool, proof: bytes) -> bytes:  # noqa: FBT001
    headers = {
        "x-tollhouse-admitted": proof,
        "x-tollhouse-cluster": cluster.encode(),
        # As what the body was judged, a backend must not read it as anything else.
        "content-type": content_type.encode(),
    }
    if injected:
        headers["x-tollhouse-default-max-tokens"] = b"true"
    response = ext_proc.ProcessingResponse()
    common = response.request_body.response
    common.clear_route_cache = True
    set_headers(common.header_mutation, headers)
    return response.SerializeToString()


def to_pb_pass(command: Pass, proof: bytes) -> bytes:
    """The last reply, to headers or body: the way to the cluster, without exchange."""
    response = ext_proc.ProcessingResponse()
    headers = {
        "x-tollhouse-admitted": proof,
        "x-tollhouse-cluster": command.cluster.encode(),
    }
    common = response.request_headers.response
    if command.body is not None:
        common = response.request_body.response
        common.body_mutation.body = command.body
        headers["content-length"] = b"%d" % len(command.body)
    common.clear_route_cache = True
    set_headers(common.header_mutation, headers)
    passed = response.dynamic_metadata.fields["tollhouse"].struct_value.fields
    # What a backend says of its failures is not for clients here either.
    passed["admitted"].bool_value = True
    if command.path:
        passed["path"].string_value = command.path
    return response.SerializeToString()


def to_pb_answer(command: Answer) -> bytes:
    """Our own 200."""
    return _immediate(200, command.body, {}, "answered")


def to_pb_hold(seconds: float) -> bytes:
    """Ask Envoy for more time, once; at most the filter's `max_message_timeout`."""
    response = ext_proc.ProcessingResponse()
    response.override_message_timeout.FromMilliseconds(
        round((seconds + _HOLD_MARGIN_SECONDS) * 1000)
    )
    return response.SerializeToString()


def to_pb_problem(problem: Problem, dialect: Dialect, trace_id: str) -> bytes:
    """Our own refusal, as the client's API words it."""
    body = problem.body(dialect, trace_id)
    if dialect is not Dialect.GRPC:
        return _immediate(problem.status, body, problem.headers, problem.word)
    response = ext_proc.ProcessingResponse()
    immediate = response.immediate_response
    immediate.status.code = problem.status  # type: ignore[assignment]  # HTTP's numbers
    # Without it Envoy makes UNAVAILABLE of a 429, which clients retry at once.
    immediate.grpc_status.status = problem.kind.grpc_status
    immediate.body = body  # becomes grpc-message
    immediate.details = problem.word
    details = to_binary_header(to_pb_status(problem, trace_id))
    set_headers(immediate.headers, {"grpc-status-details-bin": details})
    return response.SerializeToString()


def _immediate(
    status: int, body: bytes, headers: Mapping[str, str], word: str
) -> bytes:
    response = ext_proc.ProcessingResponse()
    immediate = response.immediate_response
    immediate.status.code = status  # type: ignore[assignment]  # HTTP's numbers
    immediate.body = body
    immediate.details = word
    values = {name: value.encode() for name, value in headers.items()}
    values["content-type"] = b"application/json"
    set_headers(immediate.headers, values)
    return response.SerializeToString()


def set_headers(
    mutation: ext_proc.HeaderMutation, headers: Mapping[str, bytes]
) -> None:
    """Set headers, in place of any of the same name."""
    for name, value in headers.items():
        header = mutation.set_headers.add(append_action=_OVERWRITE).header
        header.key = name
        header.raw_value = value


def read_headers(message: ext_proc.ProcessingRequest) -> RequestHeaders:
    """Read a headers message. Raises ProtocolError where authz did not run."""
    method = path = request_id = ""
    is_grpc, head = False, None
    for header in message.request_headers.headers.headers:
        if header.key == ":path":
            path = header.raw_value.decode("latin-1").partition("?")[0]
        elif header.key == ":method":
            method = header.raw_value.decode("latin-1")
        elif header.key == "x-request-id":
            request_id = header.raw_value.decode("latin-1")
        elif header.key == "content-type":
            is_grpc = _GRPC.fullmatch(header.raw_value) is not None
        elif header.key == HEAD:
            value = header.raw_value.decode("latin-1")
            head = value if head is None else f"{head}, {value}"  # two are none
    return RequestHeaders(
        method=method,
        path=path,
        is_grpc=is_grpc,
        head=head,
        request_id=request_id,
        principal=_principal(message.metadata_context),
        has_body=not message.request_headers.end_of_stream,
    )


def _principal(metadata: core_pb.Metadata) -> Principal:
    if _PRINCIPAL not in metadata.filter_metadata:
        raise ProtocolError("no principal: ext_authz is missing from the filter chain")
    fields = metadata.filter_metadata[_PRINCIPAL].fields
    return principal(
        fields["tenant"].string_value,
        fields["key_id"].string_value,
        fields["plan"].string_value,
        fields["scopes"].string_value,
        fields["overrides"].string_value,
    )


@lru_cache(maxsize=4096)
def principal(
    tenant: str, key_id: str, plan: str, scopes: str, overrides: str
) -> Principal:
    """The caller as authz described it; parsed once per key."""
    return Principal(tenant, key_id, plan, parse_scopes(scopes), overrides)
