"""ext_proc messages ↔ the admission's events and commands.

The only module of this service that touches protobuf field by field. Header values
travel in `raw_value`: Envoy takes `value` for an empty header (ext_proc's
HeaderValue contract). Replies are serialised here; the server sends bytes.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache

from google.rpc import error_details_pb2, status_pb2

from tollhouse.core.admission import (
    Admit,
    Answer,
    Identify,
    RequestBody,
    RequestHeaders,
)
from tollhouse.core.identity import Principal, parse_scopes
from tollhouse.core.problems import Dialect, Problem, ProtocolError
from tollhouse.core.ratelimit import quota_fields
from tollhouse.pb.envoy.config.core.v3 import base_pb2 as core_pb
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

_PRINCIPAL = "envoy.filters.http.ext_authz"
# As Envoy tells gRPC from the rest (Grpc::Common::isGrpcRequestHeaders).
_GRPC = re.compile(rb"application/grpc(\+.*)?")
_HOLD_MARGIN_SECONDS = 1.0
"""For our own work after a hold; Envoy's usual patience with a message."""
_OVERWRITE = core_pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def from_pb_request(
    message: ext_proc.ProcessingRequest,
) -> RequestHeaders | RequestBody:
    """Read a message. Raises ProtocolError for one the edge is not set up to send."""
    match message.WhichOneof("request"):
        case "request_headers":
            return _headers(message)
        case "request_body":
            # Whole, because the edge buffers it (check-config sees to that); not the
            # end of the stream where a client's trailers follow, which nobody reads.
            return RequestBody(message.request_body.body)
        case kind:
            raise ProtocolError(f"unexpected ext_proc message: {kind}")


def to_pb_identify(command: Identify) -> bytes:
    """The headers reply: go on, and put the exchange where the ledger sees it."""
    response = ext_proc.ProcessingResponse()
    response.request_headers.response.status = ext_proc.CommonResponse.CONTINUE
    exchange = response.dynamic_metadata.fields["tollhouse"].struct_value.fields
    exchange["exchange"].string_value = command.exchange_id
    exchange["tenant"].string_value = command.principal.tenant
    exchange["key_id"].string_value = command.principal.key_id
    return response.SerializeToString()


def to_pb_admit(command: Admit, exchange_id: str, proof: bytes) -> bytes:
    """The body reply: the judged body, the way to the cluster, the proof."""
    response = ext_proc.ProcessingResponse()
    common = response.request_body.response
    common.body_mutation.body = command.body
    _set_headers(
        common.header_mutation,
        {
            "x-tollhouse-exchange": exchange_id.encode(),
            # A replaced body of another length is a 500 unless this follows it.
            "content-length": b"%d" % len(command.body),
        },
    )
    metadata = response.dynamic_metadata.fields
    exchange = metadata["tollhouse"].struct_value.fields
    exchange["admitted"].bool_value = True
    exchange["strip"].bool_value = command.strip
    exchange["facts"].string_value = command.facts.encode().decode()
    granted = command.granted
    limits = metadata["tollhouse.ratelimit"].struct_value.fields
    for name, value in quota_fields(granted.requests, granted.units).items():
        limits[name].string_value = value
    # Two serialised messages one after the other are one message (Protocol Buffers,
    # "Merging"): what is the same for every request is serialised once.
    way = _way(command.cluster, command.injected, proof)
    return way + response.SerializeToString()


@lru_cache(maxsize=1024)
def _way(cluster: str, injected: bool, proof: bytes) -> bytes:  # noqa: FBT001
    headers = {
        "x-tollhouse-admitted": proof,
        "x-tollhouse-cluster": cluster.encode(),
        # The body was judged as JSON in UTF-8: a backend must not read it otherwise.
        "content-type": b"application/json",
    }
    if injected:
        headers["x-tollhouse-default-max-tokens"] = b"true"
    response = ext_proc.ProcessingResponse()
    common = response.request_body.response
    common.clear_route_cache = True
    _set_headers(common.header_mutation, headers)
    return response.SerializeToString()


def to_pb_answer(command: Answer) -> bytes:
    """Our own 200."""
    return _immediate(200, command.body, {})


def to_pb_hold(seconds: float) -> bytes:
    """Ask Envoy for more time, once; at most the filter's `max_message_timeout`."""
    response = ext_proc.ProcessingResponse()
    response.override_message_timeout.FromMilliseconds(
        round((seconds + _HOLD_MARGIN_SECONDS) * 1000)
    )
    return response.SerializeToString()


def to_pb_problem(problem: Problem, dialect: Dialect) -> bytes:
    """Our own refusal, as the client's API words it."""
    if dialect is not Dialect.GRPC:
        return _immediate(problem.status, problem.body(dialect), problem.headers)
    response = ext_proc.ProcessingResponse()
    immediate = response.immediate_response
    immediate.status.code = problem.status  # type: ignore[assignment]  # HTTP's numbers
    # Without it Envoy makes UNAVAILABLE of a 429, which clients retry at once.
    immediate.grpc_status.status = problem.kind.grpc_status
    immediate.body = problem.body(dialect)  # becomes grpc-message
    status = status_pb2.Status(code=problem.kind.grpc_status, message=problem.message)
    wait_ms = problem.headers.get("retry-after-ms")
    if wait_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(wait_ms))
        status.details.add().Pack(retry)
    # Richer errors: https://grpc.io/docs/guides/error/; -bin values are base64.
    details = b64encode(status.SerializeToString()).rstrip(b"=")
    _set_headers(immediate.headers, {"grpc-status-details-bin": details})
    return response.SerializeToString()


def _immediate(status: int, body: bytes, headers: Mapping[str, str]) -> bytes:
    response = ext_proc.ProcessingResponse()
    immediate = response.immediate_response
    immediate.status.code = status  # type: ignore[assignment]  # HTTP's numbers
    immediate.body = body
    values = {name: value.encode() for name, value in headers.items()}
    values["content-type"] = b"application/json"
    _set_headers(immediate.headers, values)
    return response.SerializeToString()


def _set_headers(
    mutation: ext_proc.HeaderMutation, headers: Mapping[str, bytes]
) -> None:
    for name, value in headers.items():
        header = mutation.set_headers.add(append_action=_OVERWRITE).header
        header.key = name
        header.raw_value = value


def _headers(message: ext_proc.ProcessingRequest) -> RequestHeaders:
    method = path = ""
    is_grpc = False
    for header in message.request_headers.headers.headers:
        if header.key == ":path":
            path = header.raw_value.decode("latin-1").partition("?")[0]
        elif header.key == ":method":
            method = header.raw_value.decode("latin-1")
        elif header.key == "content-type":
            is_grpc = _GRPC.fullmatch(header.raw_value) is not None
    return RequestHeaders(
        method=method,
        path=path,
        is_grpc=is_grpc,
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
