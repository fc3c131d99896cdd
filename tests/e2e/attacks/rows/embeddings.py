"""Requests for embeddings that cost more than they say, or that no estimate reads."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import Http1, ask
from tests.e2e.attacks.row import INVALID, NO_MODEL, PASSES, UNSUPPORTED, Expect, rows
from tests.e2e.attacks.rows.bodies import arrives_at, chat, embed, with_number
from tests.e2e.attacks.rows.numbers import VALUES

_INPUT = "extproc: texts or tokens, 2,048 at most"
_OTHERS = "extproc refuses the other operation's field"
_LEVER = "extproc refuses it by name"
_WHOLE = "extproc: a whole number of at least 1"
_INPUTS: list[tuple[int, str, object]] = [
    (1, "2,049 inputs", ["a"] * 2_049),
    (2, "no input", None),
    (3, "an empty list", []),
    (4, "an empty text", ""),
    (5, "an empty text among others", ["a", ""]),
    (6, "an empty list of tokens", [[]]),
    (7, "an image of SGLang's", [{"text": "a", "image": "http://169.254.169.254/"}]),
    (8, "an object", {"text": "a", "image": "http://169.254.169.254/"}),
    (9, "a number", 5),
    (10, "true", True),
    (11, "a token below 0", [-1]),
    (12, "a token beyond 32 bits", [2**31]),
    (13, "a token beyond 64 bits", [[2**64]]),
    (14, "a token with a fraction", [1.5]),
    (15, "true among tokens", [1, True]),
    (16, "texts among tokens", [1, "a"]),
    (17, "tokens among texts", ["a", 1]),
    (18, "lists of lists of tokens", [[[1]]]),
    (19, "null among texts", ["a", None]),
]
_FIELDS: list[tuple[int, str, dict[str, object], str, Expect]] = [
    (30, "a stream", {"stream": True}, "extproc: never a stream", INVALID),
    (31, "a stream, as a text", {"stream": "true"}, "extproc: never a stream", INVALID),
    (
        32,
        "messages beside the input",
        {"messages": [{"role": "user", "content": "a"}]},
        _OTHERS,
        INVALID,
    ),
    (33, "a prompt beside the input", {"prompt": "a"}, _OTHERS, INVALID),
    (34, "instructions beside the input", {"instructions": "a"}, _OTHERS, INVALID),
    (35, "more choices", {"n": 16}, _OTHERS, INVALID),
    (36, "a cap on an output", {"max_tokens": 5}, _OTHERS, INVALID),
    (37, "a coding that is none", {"encoding_format": "evil"}, _INPUT, INVALID),
    (38, "a coding that is a list", {"encoding_format": ["float"]}, _INPUT, INVALID),
    (39, "an adapter from a path", {"lora_path": "/evil"}, _LEVER, UNSUPPORTED),
    (40, "a place in the engine's queue", {"priority": -1000}, _LEVER, UNSUPPORTED),
    (41, "a template", {"chat_template": "{{ evil }}"}, _LEVER, UNSUPPORTED),
    (42, "images beside the input", {"image_data": ["evil"]}, _LEVER, UNSUPPORTED),
]


def _send(body: bytes) -> Http1:
    return ask(words.EMBEDDINGS, body=body)


ROWS = [
    *rows(
        "embeddings",
        [
            (at, what, _INPUT, _send(embed(input=it)), INVALID)
            for at, what, it in _INPUTS
        ],
    ),
    *rows(
        "embeddings",
        [
            (at, what, how, _send(embed(**it)), expect)
            for at, what, it, how, expect in _FIELDS
        ],
    ),
    *rows(
        "embeddings",
        [
            (
                at,
                f"dimensions: {what}",
                _WHOLE,
                _send(with_number(words.EMBED, "dimensions", it)),
                INVALID,
            )
            for at, (what, it) in enumerate(VALUES, start=50)
        ],
    ),
    *rows(
        "embeddings",
        [
            (
                70,
                "embeddings as they should be",
                _INPUT,
                _send(words.EMBED),
                PASSES,
                arrives_at(words.EMBEDDINGS, words.EMBED),
            ),
            (
                71,
                "2,048 inputs, and as many tokens",
                _INPUT,
                _send(embed(input=[[1]] * 2_048)),
                PASSES,
                arrives_at(words.EMBEDDINGS, embed(input=[[1]] * 2_048)),
            ),
            (
                72,
                "embeddings of a model in the scopes of chats",
                "extproc: scopes name models; unknown and forbidden look alike",
                _send(embed(model="tiny-chat")),
                NO_MODEL,
            ),
            (
                73,
                "a chat with a model in the scopes of embeddings",
                "extproc: scopes name models; unknown and forbidden look alike",
                ask(body=chat(model="vectors")),
                NO_MODEL,
            ),
            (
                74,
                "messages in place of the input",
                _OTHERS,
                _send(words.BODY.replace(b"tiny-chat", b"vectors")),
                INVALID,
            ),
        ],
    ),
]
