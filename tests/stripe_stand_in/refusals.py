"""What the stand-in answers instead of a result: Stripe's error bodies.

Statuses, types and codes are documented or were reported by users, but for the codes of
a wrong value or timestamp on v1: those are the codes of the error reports.
"""

import dataclasses
from typing import Any

INVALID = "invalid_request_error"


@dataclasses.dataclass
class Refusal(Exception):
    """An error answer."""

    status: int
    kind: str
    message: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    outcome: str = "refused"
    """Under what the call is counted."""
    stored: bool = True
    """Whether a repeat with the same Idempotency-Key gets it again."""

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        error = {
            "type": self.kind,
            "message": self.message,
            "code": self.code,
            "param": self.param,
        }
        return {"error": {key: it for key, it in error.items() if it is not None}}


def invalid(message: str, code: str | None = None, param: str | None = None) -> Refusal:
    """A request that makes no sense in the present state."""
    return Refusal(400, INVALID, message, code, param)


def malformed(message: str, code: str, param: str | None = None) -> Refusal:
    """A request refused before anything ran: no Idempotency-Key remembers it."""
    return Refusal(400, INVALID, message, code, param, stored=False)


def missing(noun: str, identity: str, param: str = "id", status: int = 404) -> Refusal:
    """An object that does not exist: 404 in a path, 400 in a parameter."""
    message = f"No such {noun}: '{identity}'"
    return Refusal(status, INVALID, message, "resource_missing", param)


def server_error() -> Refusal:
    """A 500. The SDK's source says that these come with Stripe-Should-Retry: false."""
    return Refusal(
        500,
        "api_error",
        "An unknown error occurred",
        headers={"Stripe-Should-Retry": "false"},
    )


def too_many_calls(*, v2: bool, reason: str = "global-rate") -> Refusal:
    """A 429 by the rate of all calls."""
    return Refusal(
        429,
        "rate_limit" if v2 else INVALID,
        "Request rate limit exceeded.",
        "rate_limit",
        headers={"Stripe-Rate-Limited-Reason": reason},
        outcome="rate_limit",
        stored=False,
    )


def locked() -> Refusal:
    """A 429 because another call on the same customer and meter is running."""
    return Refusal(
        429,
        INVALID,
        "This object cannot be accessed right now because another API request or"
        " Stripe process is currently accessing it.",
        "lock_timeout",
        headers={"Stripe-Should-Retry": "true"},
        outcome="lock_timeout",
        stored=False,
    )


def conflict(code: str, message: str, outcome: str = "conflict") -> Refusal:
    """A 409."""
    kind = "idempotency_error" if code == "idempotency_key_in_use" else INVALID
    return Refusal(409, kind, message, code, outcome=outcome, stored=False)
