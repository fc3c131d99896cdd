"""Numbers that a limit would not see, or not as they are."""

import json

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.row import INVALID, PASSES, Row, rows
from tests.e2e.attacks.rows.bodies import chat, has, prompt

_WHOLE = "extproc: a whole number from 1 to the model's largest"
_CHOICES = "extproc: n and best_of, 16 at most"
_FIELDS = (("max_tokens", 1), ("max_completion_tokens", 31), ("n", 61))
VALUES = [
    ("0", "0"),
    ("-1", "-1"),
    ("beyond a float", "1e309"),
    ("1e3", "1e3"),
    ("2^31", str(2**31)),
    ("2^63", str(2**63)),
    ("2^70", str(2**70)),
    ("1.5", "1.5"),
    ("1.0", "1.0"),
    ("true", "true"),
    ("a text", '"5"'),
    ("a text with a line break", r'"9\r\nx-evil: 1"'),
    ("a list", "[5]"),
    ("an object", '{"$gt":0}'),
]


def _body(field: str, text: str) -> bytes:
    marker = "@here@"
    body = {"max_tokens": 2, field: marker}
    if field == "max_completion_tokens":
        del body["max_tokens"]
    plain = json.loads(words.BODY)
    del plain["max_tokens"]
    return json.dumps(plain | body).replace(f'"{marker}"', text).encode()


def _rows(field: str, first: int) -> list[Row]:
    how = _CHOICES if field == "n" else _WHOLE
    return rows(
        "number",
        [
            (first + at, f"{field}: {what}", how, ask(body=_body(field, text)), INVALID)
            for at, (what, text) in enumerate(VALUES)
        ],
    )


ROWS = [
    *(row for field, first in _FIELDS for row in _rows(field, first)),
    *rows(
        "number",
        [
            (
                20,
                "max_tokens: null",
                "extproc puts the default in",
                ask(body=_body("max_tokens", "null")),
                PASSES,
                has(max_tokens=256, max_completion_tokens=None),
            ),
            (
                21,
                "max_tokens: more than the model gives",
                _WHOLE,
                ask(body=chat(max_tokens=4097)),
                INVALID,
            ),
            (
                22,
                "two caps, the large one where a backend may look",
                "extproc forwards one, the smaller",
                ask(body=chat(max_completion_tokens=4096)),
                PASSES,
                has(max_tokens=None, max_completion_tokens=2),
            ),
            (
                23,
                "two caps, the small one where a backend may look",
                "extproc forwards one, the smaller",
                ask(body=chat(max_tokens=4096, max_completion_tokens=2)),
                PASSES,
                has(max_tokens=None, max_completion_tokens=2),
            ),
            (
                24,
                "the cap of chats in a completion",
                "extproc refuses it",
                ask(words.COMPLETIONS, body=prompt(max_completion_tokens=5)),
                INVALID,
            ),
            (
                25,
                "no cap",
                "extproc puts the default in",
                ask(
                    body=_body("max_tokens", "null").replace(
                        b'"max_tokens": null', b'"user": "u"'
                    )
                ),
                PASSES,
                has(max_completion_tokens=256),
            ),
            (80, "n: 17", _CHOICES, ask(body=chat(n=17)), INVALID),
            (81, "n: a billion", _CHOICES, ask(body=chat(n=1_000_000_000)), INVALID),
            (
                82,
                "best_of: 17",
                _CHOICES,
                ask(words.COMPLETIONS, body=prompt(best_of=17)),
                INVALID,
            ),
            (
                83,
                "n × best_of",
                _CHOICES,
                ask(words.COMPLETIONS, body=prompt(n=16, best_of=1_000)),
                INVALID,
            ),
            (
                84,
                "best_of: a text",
                _CHOICES,
                ask(words.COMPLETIONS, body=prompt(best_of="20")),
                INVALID,
            ),
            (85, "best_of in a chat", _CHOICES, ask(body=chat(best_of=17)), INVALID),
        ],
    ),
]
