"""What gRPC clients are told of a failure beside its code and message.

Richer errors: https://grpc.io/docs/guides/error/.
"""

from base64 import b64encode
from urllib.parse import quote

from google.rpc import error_details_pb2, status_pb2

from tollhouse.core.problems import Problem

_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def to_pb_status(problem: Problem, trace_id: str = "") -> bytes:
    """Say when a retry fits, and which trace this was."""
    status = status_pb2.Status(code=problem.kind.grpc_status, message=problem.message)
    wait_ms = problem.headers.get("retry-after-ms")
    if wait_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(wait_ms))
        status.details.add().Pack(retry)
    if trace_id:
        status.details.add().Pack(error_details_pb2.RequestInfo(request_id=trace_id))
    serialised: bytes = status.SerializeToString()
    return serialised


def to_binary_header(value: bytes) -> bytes:
    """As the value of a `-bin` header, `grpc-status-details-bin` for a status."""
    return b64encode(value).rstrip(b"=")


def to_message_header(message: str) -> str:
    """As the value of `grpc-message`, where Envoy does not encode it for us.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, Status-Message.
    """
    return quote(message, safe=_PLAIN)
