"""Models that the key does not cover, or that are named in two places."""

import json

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import Http1, ask
from tests.e2e.attacks.row import (
    INVALID,
    NO_MODEL,
    NOT_HTTP,
    PASSES,
    UNAUTHENTICATED,
    UNKNOWN_URL,
    Expect,
    refused,
    rows,
)
from tests.e2e.attacks.rows.bodies import chat, has, is_chat, prompt
from tests.e2e.attacks.seen import Seen

_SCOPES = "extproc: scopes name models; unknown and forbidden look alike"
_NAME = "extproc: a name is 1 to 128 of A-Z a-z 0-9 . _ : / -"
_BODY = "the body names the model, nothing else does"
_NAMES = [
    (10, "a line break", "tiny-chat\r\nx-tollhouse-admitted: evil"),
    (11, "a percent sign", "tiny-chat%REQ(authorization)%"),
    (12, "a hash tag of Redis", "{tag}tiny-chat"),
    (13, "50 KB", "m" * 50_000),
    (14, "NUL", "tiny-chat\0"),
    (15, "a space", "tiny-chat "),
    (16, "letters that look alike", "tiny-ch\u0430t"),
    (17, "an escape sequence", "\x1b[2Jtiny-chat"),
    (18, "a glob", "tiny-*"),
    (19, "an empty name", ""),
    (20, "a list", ["tiny-chat"]),
    (21, "a number", 1),
    (22, "an object", {"id": "tiny-chat"}),
    (23, "null", None),
]
_UNKNOWN = [
    (30, "dots", ".."),
    (31, "a path", "../../private"),
    (32, "Triton's own path", "/v2/repository/models/evil/load"),
    (33, "other letters' case", "TINY-CHAT"),
    (34, "a version", "tiny-chat/versions/1"),
]


def _hides_the_private(seen: Seen) -> bool:
    return (
        b"private" not in seen.replies[0].body and b"tiny-chat" in seen.replies[0].body
    )


def _is_the_model(seen: Seen) -> bool:
    return json.loads(seen.replies[0].body).get("id") == "tiny-chat"


def _look(name: str, **more: object) -> Http1:
    """Look at one model."""
    return ask(f"{words.MODELS}/{name}", method="GET", body=b"", **more)


_UNSEEN = [
    (51, "the path of a model beyond the key's scopes", "private"),
    (52, "the path of a model that is not there", "no-such"),
    (53, "a path parameter of a model", "tiny-chat;x=1"),
    (54, "a trailing slash of a model", "tiny-chat/"),
    (55, "a glob as a model's path", "tiny-*"),
    (56, "a model behind a model's path", "tiny-chat/private"),
    (57, "an encoded line break behind a model's path", "tiny-chat%0d%0aevil"),
    (58, "a hash tag of Redis as a model's path", "%7Btag%7Dtiny-chat"),
    (59, "bytes that are no UTF-8 as a model's path", "%ff%fe"),
    (60, "a twice encoded slash in a model's path", "..%252f..%252fprivate"),
    (61, "the path of a private model, encoded", "%70rivate"),
]

ROWS = [
    *rows(
        "model",
        [(at, what, _SCOPES, _look(it), NO_MODEL) for at, what, it in _UNSEEN],
    ),
    *rows(
        "model",
        [
            (
                50,
                "the path of a model",
                _SCOPES,
                _look("tiny-chat"),
                Expect(fits=_is_the_model),
            ),
            (
                62,
                "dots as a model's path",
                "normalize_path before routing",
                _look("../../v2/repository/index"),
                refused(404),
            ),
            (
                63,
                "encoded dots as a model's path",
                "normalize_path before routing",
                _look("%2e%2e/private"),
                UNKNOWN_URL,
            ),
            (
                64,
                "NUL in a model's path",
                _SCOPES,
                _look("tiny-chat%00"),
                refused(400, 404),
            ),
            (
                65,
                "50 KB as a model's path",
                "max_request_headers_kb",
                _look("m" * 50_000),
                refused(431, code="headers_too_large"),
            ),
            (
                66,
                "20 KB as a model's path",
                _SCOPES,
                _look("m" * 20_000),
                NO_MODEL,
            ),
            (
                67,
                "an encoded slash in a model's path",
                "path_with_escaped_slashes_action rejects",
                _look("..%2fprivate"),
                NOT_HTTP,
            ),
            (
                68,
                "a model's path without a model",
                "authz: a scope per path",
                _look(""),
                refused(403, code="insufficient_permissions"),
            ),
            (
                69,
                "the path of a model by nobody",
                "authz takes one bearer credential, written exactly",
                _look("tiny-chat", key=None),
                UNAUTHENTICATED,
            ),
            (
                70,
                "the path of a model, without the scope to list",
                "authz: a scope per operation",
                _look("tiny-chat", key=words.NARROW),
                refused(403, code="insufficient_permissions"),
            ),
        ],
    ),
    *rows(
        "model",
        [
            (at, what, _NAME, ask(body=chat(model=it)), INVALID)
            for at, what, it in _NAMES
        ],
    ),
    *rows(
        "model",
        [
            (at, what, _SCOPES, ask(body=chat(model=it)), NO_MODEL)
            for at, what, it in _UNKNOWN
        ],
    ),
    *rows(
        "model",
        [
            (
                1,
                "a model beyond the key's scopes",
                _SCOPES,
                ask(body=chat(model="private")),
                NO_MODEL,
            ),
            (
                2,
                "a model that is not there",
                _SCOPES,
                ask(body=chat(model="no-such")),
                NO_MODEL,
            ),
            (
                3,
                "a model in the scopes of another operation",
                _SCOPES,
                ask(body=chat(model="pictures"), key=words.NARROW),
                NO_MODEL,
            ),
            (
                4,
                "a forbidden model named in the list of models",
                _SCOPES,
                ask(words.MODELS, method="GET", body=b""),
                Expect(fits=_hides_the_private),
            ),
            (
                5,
                "another model in a header",
                _BODY,
                ask(words.CHAT, "x-tollhouse-model: private", "x-model: private"),
                PASSES,
                is_chat,
            ),
            (
                6,
                "another model in the query string",
                _BODY,
                ask(f"{words.CHAT}?model=private"),
                PASSES,
                has(model="tiny-chat"),
            ),
            (
                7,
                "another model, allowed by the header",
                _BODY,
                ask(
                    words.CHAT,
                    "x-tollhouse-model: tiny-chat",
                    body=chat(model="private"),
                ),
                NO_MODEL,
            ),
            (
                8,
                "a chat to the path of completions",
                _BODY,
                ask(words.COMPLETIONS, body=chat()),
                INVALID,
            ),
            (
                9,
                "a completion to the path of chats",
                _BODY,
                ask(body=prompt()),
                INVALID,
            ),
            (
                40,
                "a prompt beside the messages",
                "extproc refuses the other operation's field",
                ask(body=chat(prompt="x" * 100)),
                INVALID,
            ),
            (
                41,
                "messages beside the prompt",
                "extproc refuses the other operation's field",
                ask(
                    words.COMPLETIONS,
                    body=prompt(messages=[{"role": "user", "content": "x"}]),
                ),
                INVALID,
            ),
        ],
    ),
]
