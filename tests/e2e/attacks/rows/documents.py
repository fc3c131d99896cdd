"""JSON that two parsers would read in two ways, or that costs more than it weighs."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.row import INVALID, PASSES, rows
from tests.e2e.attacks.rows.bodies import chat, has, with_text

_ONCE = "extproc refuses a key that comes twice, at any depth"
_STRICT = "extproc takes UTF-8 JSON to the letter"
_DEPTH = "extproc bounds the depth"
_COUNT = "extproc bounds the number of values"
_BODY = words.BODY

_TWICE = [
    (1, "the model twice", with_text('"model":"private"')),
    (2, "the model twice, once escaped", with_text(r'"\u006dodel":"private"')),
    (3, "the cap twice", with_text('"max_tokens":4096')),
    (4, "the messages twice", with_text('"messages":[]')),
    (
        5,
        "the role of a message twice",
        _BODY.replace(b'"content"', b'"role":"tool","content"'),
    ),
    (6, "a key twice where nobody looks", with_text('"x":[{"y":{"z":1,"z":2}}]')),
    (7, "an empty key twice", with_text('"":1,"":2')),
    (
        8,
        "a stream option twice",
        with_text('"stream":true,"stream_options":{"a":1,"a":2}'),
    ),
]
_ODD = [
    (10, "a byte order mark", b"\xef\xbb\xbf" + _BODY),
    (11, "UTF-16", _BODY.decode().encode("utf-16")),
    (12, "UTF-16 without a mark", _BODY.decode().encode("utf-16-le")),
    (13, "UTF-32", _BODY.decode().encode("utf-32")),
    (14, "Latin-1", _BODY.replace(b"hi", b"\xe4")),
    (15, "an overlong encoding", _BODY.replace(b"hi", b"\xc0\xaf")),
    (16, "a lone surrogate", _BODY.replace(b"hi", rb"\ud800")),
    (17, "a lone surrogate in a key", with_text(r'"\udfff":1')),
    (18, "a surrogate in UTF-8", _BODY.replace(b"hi", b"\xed\xa0\x80")),
    (19, "a raw control character", _BODY.replace(b"hi", b"a\nb")),
    (20, "a raw NUL", _BODY.replace(b"hi", b"a\0b")),
    (21, "NaN", with_text('"temperature":NaN')),
    (22, "Infinity", with_text('"temperature":Infinity')),
    (23, "-Infinity, deep down", with_text('"x":[{"y":-Infinity}]')),
    (24, "a number beyond all", with_text('"temperature":1e999')),
    (25, "a leading zero", with_text('"seed":01')),
    (26, "a plus sign", with_text('"seed":+1')),
    (27, "a hexadecimal number", with_text('"seed":0x10')),
    (28, "a comma too many", _BODY[:-1] + b",}"),
    (29, "a comment", b"/* evil */" + _BODY),
    (30, "single quotes", _BODY.replace(b'"', b"'")),
    (31, "a second document", _BODY + b"\n" + _BODY),
    (32, "words behind the end", _BODY + b"evil"),
    (33, "an end that is missing", _BODY[:-1]),
    (34, "a list", b"[" + _BODY + b"]"),
    (35, "a text", b'"' + _BODY.replace(b'"', rb"\"") + b'"'),
    (36, "null", b"null"),
    (37, "white space", b" \r\n\t"),
    (38, "a form", b"model=tiny-chat&messages=hi"),
    (
        39,
        "XML with an entity",
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
    ),
]
_DEEP = [
    (50, "lists, 100,000 deep", with_text('"x":' + "[" * 100_000 + "]" * 100_000)),
    (
        51,
        "objects, 20,000 deep",
        with_text('"x":' + '{"a":' * 20_000 + "1" + "}" * 20_000),
    ),
    (52, "lists that do not end", b'{"x":' + b"[" * 100_000),
    (
        53,
        "a tool call, 600 deep",
        chat(messages=[{"role": "assistant", "tool_calls": [None]}]).replace(
            b"null", b'{"a":' * 600 + b"1" + b"}" * 600
        ),
    ),
]
_MANY = [
    (60, "a million values", with_text('"x":[' + "0," * 1_000_000 + "0]")),
    (61, "a million empty lists", with_text('"x":[' + "[]," * 1_000_000 + "[]]")),
    (
        62,
        "a hundred thousand keys",
        with_text(",".join(f'"k{it}":0' for it in range(100_000))),
    ),
    (
        63,
        "five thousand messages",
        chat(messages=[{"role": "user", "content": "a"}] * 5_000),
    ),
]
_TYPES = [
    (70, "messages that are none", chat(messages="hi")),
    (71, "no messages", chat(messages=[])),
    (72, "a message that is none", chat(messages=["hi"])),
    (73, "a role there is not", chat(messages=[{"role": "evil", "content": "hi"}])),
    (74, "a role that is none", chat(messages=[{"role": ["user"], "content": "hi"}])),
    (
        75,
        "content that is none",
        chat(messages=[{"role": "user", "content": {"text": "hi"}}]),
    ),
    (76, "a stream that is a text", chat(stream="true")),
    (
        77,
        "stream options without a stream",
        chat(stream_options={"include_usage": True}),
    ),
    (78, "stream options that are none", chat(stream=True, stream_options=[])),
    (
        79,
        "usage asked for with a number",
        chat(stream=True, stream_options={"include_usage": 1}),
    ),
]

ROWS = [
    *rows(
        "json", [(at, what, _ONCE, ask(body=it), INVALID) for at, what, it in _TWICE]
    ),
    *rows(
        "json", [(at, what, _STRICT, ask(body=it), INVALID) for at, what, it in _ODD]
    ),
    *rows(
        "json", [(at, what, _DEPTH, ask(body=it), INVALID) for at, what, it in _DEEP]
    ),
    *rows(
        "json", [(at, what, _COUNT, ask(body=it), INVALID) for at, what, it in _MANY]
    ),
    *rows(
        "json",
        [
            (at, what, "extproc judges types", ask(body=it), INVALID)
            for at, what, it in _TYPES
        ],
    ),
    *rows(
        "json",
        [
            (
                80,
                "a number that a float would change",
                "what is not judged is forwarded byte for byte",
                ask(body=with_text('"seed":12345678901234567890')),
                PASSES,
                has(seed=12345678901234567890),
            ),
            (
                81,
                "white space that hides a key",
                "the judged body is written anew",
                ask(body=b" " * 100_000 + _BODY),
                PASSES,
                lambda received: len(received.body) < 200,
            ),
        ],
    ),
]
