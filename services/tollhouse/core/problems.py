"""The closed list of failures a client may see, and the two families it never sees.

A `Problem` is rendered in the dialect the client spoke. Its message is ours, never an
upstream's text and never a part of a prompt.
"""

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

import msgspec


class Unavailable(Exception):
    """A dependency did not answer.

    `transient` says whether trying again later can help. In the way of a request it
    becomes a 503; behind it the work waits and is repeated under the same id.
    `ours` says that the time was lost here, most of it: our own event loop or the
    whole machine stood still, and nothing is known of the dependency.
    """

    def __init__(
        self, what: str, *, transient: bool = True, ours: bool = False
    ) -> None:
        super().__init__(what)
        self.transient = transient
        self.ours = ours


class ProtocolError(Exception):
    """We or a peer broke the contract: a bug. The stream ends; nothing is admitted."""


class Dialect(StrEnum):
    """How an API words its errors."""

    OPENAI = "openai"
    """`{"error": {…}}` (https://platform.openai.com/docs/guides/error-codes)."""
    ANTHROPIC = "anthropic"
    """`{"type": "error", …}` (https://docs.claude.com/en/api/errors)."""
    TRITON = "triton"
    """`{"error": "text"}` (KServe's Open Inference Protocol, inference error)."""
    GRPC = "grpc"
    """A status with its message, no body."""


class Kind(Enum):
    """Every kind of problem: HTTP status, OpenAI `type`, OpenAI `code`."""

    INVALID_REQUEST = (400, "invalid_request_error", None)
    CONTEXT_LENGTH = (400, "invalid_request_error", "context_length_exceeded")
    UNSUPPORTED = (400, "invalid_request_error", "unsupported_parameter")
    INVALID_KEY = (401, "invalid_request_error", "invalid_api_key")
    FORBIDDEN = (403, "permission_error", "insufficient_permissions")
    TENANT_SUSPENDED = (403, "permission_error", "tenant_suspended")
    NOT_FOUND = (404, "invalid_request_error", None)
    MODEL_NOT_FOUND = (404, "invalid_request_error", "model_not_found")
    UNSUPPORTED_ENCODING = (
        415,
        "invalid_request_error",
        "unsupported_content_encoding",
    )
    RATE_LIMITED = (429, "rate_limit_error", "rate_limit_exceeded")
    NEVER_FITS = (429, "rate_limit_error", "request_too_large_for_limit")
    INSUFFICIENT_QUOTA = (429, "insufficient_quota", "insufficient_quota")
    UPSTREAM_FAILED = (502, "server_error", "upstream_error")
    UNAVAILABLE = (503, "server_error", "service_unavailable")
    OVERLOADED = (503, "server_error", "overloaded")
    TIMED_OUT = (504, "server_error", "timeout")

    @property
    def status(self) -> int:
        """HTTP status."""
        status: int = self.value[0]
        return status

    @property
    def grpc_status(self) -> int:
        """Status code of gRPC (https://grpc.io/docs/guides/status-codes/)."""
        return _GRPC[self.status]

    @property
    def anthropic_type(self) -> str:
        """Anthropic's `type` of the error."""
        return _ANTHROPIC.get(self.status, "api_error")


_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_GRPC = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    415: 12,
    429: 8,
    502: 14,
    503: 14,
    504: 4,
}


@dataclass(eq=False)
class Problem(Exception):
    """One failure for one client.

    `param` names the offending request field in OpenAI's notation
    (`messages[0].content`); `headers` are response headers such as `Retry-After`;
    `details` are keys beside OpenAI's own in the error object, for programs. `limit` is
    the word of the limit that refused, for operators.
    """

    kind: Kind
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    limit: str = ""

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.kind.status

    @property
    def word(self) -> str:
        """Which it is, for logs: one of few, as `rate_limited:key.requests`."""
        kind = self.kind.name.lower()
        return f"{kind}:{self.limit}" if self.limit else kind

    def error(self) -> dict[str, Any]:
        """The value of OpenAI's `error` key."""
        _, type_, code = self.kind.value
        return {
            "message": self.message,
            "type": type_,
            "param": self.param,
            "code": code,
            **self.details,
        }

    def body(self, dialect: Dialect = Dialect.OPENAI, trace_id: str = "") -> bytes:
        """The whole body; JSON but in gRPC, where it is the status' message.

        `trace_id` is what a client quotes when it asks why; "" where there is none.
        """
        trace = {"trace_id": trace_id} if trace_id else {}
        match dialect:
            case Dialect.OPENAI:
                return msgspec.json.encode({"error": self.error() | trace})
            case Dialect.ANTHROPIC:
                error = {"type": self.kind.anthropic_type, "message": self.message}
                return msgspec.json.encode({"type": "error", "error": error} | trace)
            case Dialect.TRITON:
                return msgspec.json.encode({"error": self.message} | trace)
            case Dialect.GRPC:
                return self.message.encode()
