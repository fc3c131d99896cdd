"""Keys as Anthropic's clients send them: in x-api-key, on their own path alone."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import Http1, ask
from tests.e2e.attacks.http2 import ask2
from tests.e2e.attacks.row import NOT_HTTP, PASSES, UNAUTHENTICATED, rows
from tests.e2e.attacks.rows.bodies import arrives_at

_EITHER = "authz takes x-api-key below /v1/messages; beside a key, the same one"
_KEY = words.KEY
_is_message = arrives_at(words.MESSAGES, words.BODY)


def _messages(*lines: bytes) -> Http1:
    """Send a request of Anthropic's API with these headers for the key."""
    return ask(words.MESSAGES, *lines, key=None)


_GOOD = b"authorization: Bearer " + _KEY
_API_KEYS = [
    (70, "no key for messages", ()),
    (71, "an unknown key in x-api-key", (b"x-api-key: " + words.UNKNOWN,)),
    (72, "a revoked key in x-api-key", (b"x-api-key: " + words.REVOKED,)),
    (73, "an empty x-api-key", (b"x-api-key:",)),
    (74, "an empty x-api-key beside a good key", (b"x-api-key:", _GOOD)),
    (75, "a bad x-api-key beside a good key", (b"x-api-key: " + words.UNKNOWN, _GOOD)),
    (76, "another good x-api-key", (b"x-api-key: " + words.NARROW, _GOOD)),
    (
        77,
        "a bad key beside a good x-api-key",
        (b"x-api-key: " + _KEY, b"authorization: Bearer " + words.UNKNOWN),
    ),
    (
        78,
        "a scheme we do not take beside a good x-api-key",
        (b"x-api-key: " + _KEY, b"authorization: Basic " + _KEY),
    ),
    (
        79,
        "an empty Authorization beside a good x-api-key",
        (b"x-api-key: " + _KEY, b"authorization:"),
    ),
    (80, "a scheme in x-api-key", (b"x-api-key: Bearer " + _KEY,)),
    (81, "x-api-key twice", (b"x-api-key: " + _KEY, b"x-api-key: " + _KEY)),
    (82, "a list in x-api-key", (b"x-api-key: " + _KEY + b", " + _KEY,)),
    (83, "the key in api-key, for messages", (b"api-key: " + _KEY,)),
    (84, "x-api-key of 20 KB", (b"x-api-key: " + b"A" * 20_000,)),
]
_GOOD_API_KEYS = [
    (
        90,
        "the key goes on to the backend in x-api-key",
        _messages(b"x-api-key: " + _KEY),
    ),
    (91, "the key twice, alike", _messages(b"x-api-key: " + _KEY, _GOOD)),
    (
        92,
        "the key goes on in x-api-key, on HTTP/2",
        ask2(words.MESSAGES, ("x-api-key", _KEY), key=None),
    ),
]

ROWS = rows(
    "authorization",
    [
        *(
            (at, what, _EITHER, _messages(*it), UNAUTHENTICATED)
            for at, what, it in _API_KEYS
        ),
        *(
            (at, what, _EITHER, it, PASSES, _is_message)
            for at, what, it in _GOOD_API_KEYS
        ),
        (
            95,
            "the key in the underscore twin of x-api-key",
            "headers_with_underscores_action rejects",
            _messages(b"x_api_key: " + _KEY),
            NOT_HTTP,
        ),
        (
            96,
            "x-api-key for chats, through the path of messages",
            "normalize_path before authz",
            ask(
                "/v1/x/../messages/../chat/completions",
                b"x-api-key: " + _KEY,
                key=None,
            ),
            UNAUTHENTICATED,
        ),
        (
            97,
            "x-api-key as a trailer on HTTP/2",
            _EITHER,
            ask2(words.MESSAGES, key=None, trailers=[("x-api-key", _KEY)]),
            UNAUTHENTICATED,
        ),
    ],
)
