"""What an attacker sees of an answer."""

import dataclasses
import json
from typing import Any


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

    @property
    def error(self) -> dict[str, Any]:
        """The value of OpenAI's `error` key; empty where there is none."""
        try:
            found = json.loads(self.body)["error"]
        except (ValueError, TypeError, KeyError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def has_error_object(self) -> bool:
        """Whether the body is OpenAI's error object, with all of its keys."""
        return self.error.keys() >= {"message", "type", "param", "code"}

    @property
    def error_code(self) -> str | None:
        """OpenAI's code."""
        code: str | None = self.error["code"]
        return code


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
