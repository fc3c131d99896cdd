"""Models that the key does not cover, or that are named in two places."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.row import INVALID, NO_MODEL, PASSES, Expect, rows
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


ROWS = [
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
