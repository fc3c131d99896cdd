"""What an attacker sees of an answer."""

import dataclasses
import json
from typing import Any

from tollhouse.core.problems import Dialect

_ANTHROPIC = frozenset(
    {
        *("invalid_request_error", "authentication_error", "permission_error"),
        *("not_found_error", "request_too_large", "rate_limit_error", "api_error"),
        *("timeout_error", "overloaded_error"),
    }
)
"""https://docs.claude.com/en/api/errors"""


@dataclasses.dataclass
class Reply:
    """One answer; header names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    is_bodiless: bool = False
    """It answers HEAD."""

    def header(self, name: str) -> str | None:
        """The first value."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def is_grpc(self) -> bool:
        """Whether it speaks gRPC."""
        return (self.header("content-type") or "").startswith("application/grpc")

    def has_error_in(self, dialect: Dialect) -> bool:
        """Whether the body is this dialect's error object, with all of its keys."""
        match dialect, self._json():
            case (
                Dialect.OPENAI,
                {"error": {"message": str(), "type": str(), "param": _, "code": _}},
            ):
                return True
            case (
                Dialect.ANTHROPIC,
                {"type": "error", "error": {"type": str() as kind, "message": str()}},
            ):
                return kind in _ANTHROPIC
            case Dialect.TRITON, {"error": str()}:
                return True
        return False

    @property
    def error_code(self) -> str | None:
        """OpenAI's code, of OpenAI's error object."""
        code: str | None = self._json()["error"]["code"]
        return code

    def _json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclasses.dataclass
class Seen:
    """All answers on one connection, or to one call."""

    replies: list[Reply]
    has_ended: bool = False
    """The connection or the stream was ended by the gateway."""
    settings: dict[int, int] = dataclasses.field(default_factory=dict)
    """HTTP/2 settings the gateway announced."""
    window: int = 0
    """What HTTP/2's connection window grew by at its start."""
    dialect: Dialect = Dialect.OPENAI
    """That of the path that was asked for."""
