"""What an answer of Stripe means: the one place that reads its errors.

| answer | meaning |
|---|---|
| 429, or error code `rate_limit` | REFUSED: certainly not applied |
| 401, 403 with Stripe's error body | the key is refused: nobody's event is at fault |
| 400 that says the identifier exists | DUPLICATE |
| 400 `idempotency_error`: the key was used for something else | CONFLICT |
| 409, 5xx, anything but JSON | UNKNOWN |
| another 4xx with Stripe's error body | POISON |
| a 4xx without: of something in between | UNKNOWN |

https://docs.stripe.com/error-low-level, https://docs.stripe.com/api/errors. Of an error
only its code is kept, or its type where it has none: texts may name customers and
parts of keys.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from tollhouse.core.chunk import Answer, Verdict
from tollhouse.core.problems import Unavailable

UNREADABLE = "unreadable"

_OK = range(200, 300)
_BAD_REQUEST = 400
_CLIENT_ERRORS = range(400, 500)
_CONFLICT = 409
_TOO_MANY = 429
_KEY_REFUSED = frozenset({401, 403})

_OTHER_BYTES = "idempotency_error"
"""The Idempotency-Key was used with other parameters
(https://docs.stripe.com/api/idempotent_requests)."""

_CODE = re.compile(r"[a-z0-9_.]{1,64}")
_DUPLICATE_CODE = "duplicate_meter_event"
# "An event already exists with identifier …", without a code (langfuse/langfuse#16292);
# v2 documents the code and the second text (v2.error.duplicate_meter_event).
_DUPLICATE_TEXT = re.compile(
    r"already exists with identifier|duplicate identifier", re.IGNORECASE
)


class CallError(Exception):
    """A call to Stripe that failed; knows what that means, and no text of Stripe's."""

    def __init__(
        self,
        verdict: Verdict,
        code: str,
        *,
        status: int = 0,
        is_key_refused: bool = False,
    ) -> None:
        super().__init__(code)
        self.verdict = verdict
        self.code = code
        self.status = status
        """Of HTTP; 0 without an answer."""
        self.is_key_refused = is_key_refused

    def answer(self) -> Answer:
        """As the answer to an attempt. Raises Unavailable for a refused key."""
        if self.is_key_refused:
            raise self.unavailable()
        return Answer(self.verdict, self.code)

    def unavailable(self) -> Unavailable:
        """As what stops everything that needs Stripe."""
        if self.is_key_refused:
            return Unavailable(
                f"Stripe refuses our API key ({self.code})", transient=False
            )
        return Unavailable(
            f"Stripe did not do it ({self.code})",
            transient=self.verdict in (Verdict.REFUSED, Verdict.UNKNOWN),
        )


@contextmanager
def reading() -> Iterator[None]:
    """Around what picks an answer apart: one of another shape becomes a CallError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    else:
        return
    raise CallError(Verdict.UNKNOWN, UNREADABLE)


def judge(status: int, body: bytes) -> CallError | None:
    """What an HTTP answer means; None for a success that can be read."""
    error = answered = None
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answered = msgspec.json.decode(body)
    if isinstance(answered, dict):
        error = answered.get("error")
        if status in _OK and error is None:
            return None
    if not isinstance(error, dict) or status in _OK:
        error = None
    return _judged(status, error)


def _judged(status: int, error: dict[str, Any] | None) -> CallError:
    code = _code(error) or (UNREADABLE if status in _OK else f"http_{status}")
    if status == _TOO_MANY or (code == "rate_limit" and status in _CLIENT_ERRORS):
        return CallError(Verdict.REFUSED, code, status=status)
    if error is None or status not in _CLIENT_ERRORS or status == _CONFLICT:
        return CallError(Verdict.UNKNOWN, code, status=status)
    if status in _KEY_REFUSED:
        return CallError(Verdict.UNKNOWN, code, status=status, is_key_refused=True)
    if status == _BAD_REQUEST and _is_duplicate(code, error.get("message")):
        return CallError(Verdict.DUPLICATE, code, status=status)
    if error.get("type") == _OTHER_BYTES:
        return CallError(Verdict.CONFLICT, code, status=status)
    return CallError(Verdict.POISON, code, status=status)


def _code(error: dict[str, Any] | None) -> str:
    """The error's code, else its type; nothing that could be a text."""
    for name in ("code", "type"):
        value = (error or {}).get(name)
        if isinstance(value, str) and _CODE.fullmatch(value):
            return value
    return ""


def _is_duplicate(code: str, message: object) -> bool:
    return code == _DUPLICATE_CODE or (
        isinstance(message, str) and _DUPLICATE_TEXT.search(message) is not None
    )
