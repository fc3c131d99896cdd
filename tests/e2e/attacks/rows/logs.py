"""Text that would be a line, or a field, of a log of its own."""

import json

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.row import (
    INVALID,
    NOT_HTTP,
    PASSES,
    UNAUTHENTICATED,
    UNKNOWN_URL,
    rows,
)
from tests.e2e.attacks.rows.bodies import chat, has
from tests.e2e.edge.backend import Received

MARK = "INJECTED"
"""What no log may have as a line or a field."""
_FIELD = f'","{MARK}":"1","x":"'
_LINE = f"%0d%0a{MARK}%0d%0a"
_ESCAPED = "logs are JSON, and hold no client's text"
_CHAT = words.CHAT


def _is_within(received: Received) -> bool:
    lines = [it for it in received.head.split("\r\n") if MARK in it]
    return lines == [f"user-agent: a{MARK}: x"]


ROWS = rows(
    "log",
    [
        (1, "a field in the path", _ESCAPED, ask(f"/{_FIELD}"), UNKNOWN_URL),
        (2, "a line in the path", _ESCAPED, ask(f"/{_LINE}"), UNKNOWN_URL),
        (
            3,
            "a field in the query of a good request",
            _ESCAPED,
            ask(f"{_CHAT}?{_FIELD}"),
            PASSES,
            has(model="tiny-chat"),
        ),
        (
            4,
            "a field in a header",
            _ESCAPED,
            ask(_CHAT, f"user-agent: {_FIELD}"),
            PASSES,
            has(model="tiny-chat"),
        ),
        (
            5,
            "an escape sequence in a header",
            _ESCAPED,
            ask(_CHAT, f"user-agent: \x1b[2J{MARK}"),
            NOT_HTTP,
        ),
        (
            6,
            "a bare carriage return in a header",
            "the codec drops it",
            ask(_CHAT, f"user-agent: a\r{MARK}: x"),
            PASSES,
            _is_within,
        ),
        (
            7,
            "a field in the request id",
            _ESCAPED,
            ask(_CHAT, f"x-request-id: {_FIELD}"),
            PASSES,
            has(model="tiny-chat"),
        ),
        (8, "a field in the model", _ESCAPED, ask(body=chat(model=_FIELD)), INVALID),
        (
            9,
            "a line in the model",
            _ESCAPED,
            ask(body=chat(model=f"m\r\n{MARK}\r\n")),
            INVALID,
        ),
        (
            10,
            "a field in the key",
            _ESCAPED,
            ask(_CHAT, f"authorization: Bearer {_FIELD}", key=None),
            UNAUTHENTICATED,
        ),
        (
            11,
            "a line in a value that is refused",
            _ESCAPED,
            ask(body=chat(max_tokens=f"\r\n{MARK}\r\n")),
            INVALID,
        ),
        (
            12,
            "a line in a key of the body",
            _ESCAPED,
            ask(
                body=json.dumps({f"\n{MARK}\n": 1})[:-1].encode()
                + b","
                + words.BODY[1:]
            ),
            PASSES,
            has(model="tiny-chat"),
        ),
        (
            13,
            "a line in the user of the body",
            _ESCAPED,
            ask(body=chat(user=f"\n{MARK}\n")),
            PASSES,
            has(model="tiny-chat"),
        ),
        (
            14,
            "a format of Envoy's in a header",
            _ESCAPED,
            ask(_CHAT, "user-agent: %REQ(authorization)%"),
            PASSES,
            has(model="tiny-chat"),
        ),
    ],
)
