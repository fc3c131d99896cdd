"""Requests whose end two parsers would see in two places."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import Http1, chunked, request, send
from tests.e2e.attacks.http2 import Http2, ask2, fields
from tests.e2e.attacks.row import (
    NO_BYTE,
    NOT_HTTP,
    PASSES,
    refused,
    rows,
)
from tests.e2e.attacks.rows.bodies import is_chat

_CODEC = "the codec refuses two lengths, and odd ones"
_FRAMED = "every request is framed anew for the backend"
_OWN = "each request is authorised by itself"
_LINGER = 0.2
_SECOND = request(words.COMPLETIONS, body=words.PROMPT, close=False)
"""What the attacker hides; it has a good key, so only its framing keeps it out."""
_CHUNKED = "transfer-encoding: chunked"
_LENGTH = f"content-length: {len(words.BODY)}"


def _request(*headers: str | bytes, body: bytes = b"", **more: object) -> bytes:
    text = request(words.CHAT, *headers, body=b"", length=False, close=False, **more)  # type: ignore[arg-type]
    return text + body


def _hiding(*headers: str, body: bytes) -> Http1:
    """Send one request, with another one hidden behind it."""
    return send(_request(*headers, body=body) + _SECOND, linger=_LINGER)


_TWICE = [
    (1, "length and chunks", [_LENGTH, _CHUNKED], chunked(words.BODY)),
    (2, "chunks and length", [_CHUNKED, _LENGTH], chunked(words.BODY)),
    (3, "chunks and length 0", ["content-length: 0", _CHUNKED], chunked(words.BODY)),
    (4, "two lengths", [_LENGTH, "content-length: 5"], words.BODY),
    (5, "two lengths in one header", ["content-length: 5, 5"], b"12345"),
    (6, "a length with a sign", ["content-length: +5"], b"12345"),
    (7, "a negative length", ["content-length: -1"], words.BODY),
    (8, "a length in hexadecimal", ["content-length: 0x52"], words.BODY),
    (
        9,
        "a length beyond 64 bits",
        ["content-length: 18446744073709551621"],
        words.BODY,
    ),
    (10, "an empty length", ["content-length:"], words.BODY),
    (11, "a length with words", ["content-length: 5 evil"], b"12345"),
]
_CODINGS = [
    (20, "an unknown coding", ["transfer-encoding: evil"]),
    (21, "chunked behind another coding", ["transfer-encoding: gzip, chunked"]),
    (
        22,
        "chunked in front of another coding",
        ["transfer-encoding: chunked, identity"],
    ),
    (23, "chunked twice", ["transfer-encoding: chunked", "transfer-encoding: chunked"]),
    (24, "chunked and a vertical tab", ["transfer-encoding: \x0bchunked"]),
    (25, "chunked with a name's space", ["transfer-encoding : chunked"]),
    (27, "the underscore twin of the coding", ["transfer_encoding: chunked"]),
]
_HEX = b"%x" % len(words.BODY)
_CHUNKS = [
    (30, "a chunk with a sign", b"+%s\r\n%s\r\n0\r\n\r\n" % (_HEX, words.BODY)),
    (31, "a chunk with 0x", b"0x%s\r\n%s\r\n0\r\n\r\n" % (_HEX, words.BODY)),
    (32, "a chunk beyond 64 bits", b"1" * 17 + b"\r\n%s\r\n0\r\n\r\n" % words.BODY),
    (33, "a negative chunk", b"-1\r\n%s\r\n0\r\n\r\n" % words.BODY),
    (35, "a chunk of no size", b"\r\n%s\r\n0\r\n\r\n" % words.BODY),
    (
        36,
        "a chunk with a space for its line's end",
        b"%s \n%s\r\n0\r\n\r\n" % (_HEX, words.BODY),
    ),
]
_FRAMES = "the codec refuses what HTTP/2 forbids"
_HTTP2 = [
    (
        60,
        "HTTP/2: a body longer than its length",
        ask2(words.CHAT, ("content-length", "5")),
    ),
    (
        61,
        "HTTP/2: a body shorter than its length",
        ask2(words.CHAT, ("content-length", "500")),
    ),
    (
        62,
        "HTTP/2: two lengths",
        ask2(words.CHAT, ("content-length", "82"), ("content-length", "5")),
    ),
    (63, "HTTP/2: a length that is none", ask2(words.CHAT, ("content-length", "evil"))),
    (64, "HTTP/2: chunks", ask2(words.CHAT, ("transfer-encoding", "chunked"))),
    (
        65,
        "HTTP/2: a header of the connection",
        ask2(words.CHAT, ("connection", "close")),
    ),
    (
        66,
        "HTTP/2: a line break in a value",
        ask2(words.CHAT, ("x-a", "b\r\nx-c: evil")),
    ),
    (67, "HTTP/2: a line break in a name", ask2(words.CHAT, ("x-a\r\nx-c", "evil"))),
    (68, "HTTP/2: NUL in a value", ask2(words.CHAT, ("x-a", "b\0c"))),
    (
        69,
        "HTTP/2: two paths",
        Http2([*fields()[:4], (":path", "/v1/models"), *fields()[4:]]),
    ),
    (70, "HTTP/2: two methods", Http2([(":method", "GET"), *fields()])),
    (
        71,
        "HTTP/2: a pseudo-header behind a header",
        Http2([*fields(), (":path", "/evil")]),
    ),
    (72, "HTTP/2: an unknown pseudo-header", Http2([(":evil", "1"), *fields()])),
    (73, "HTTP/2: no method", Http2(fields()[1:])),
    (74, "HTTP/2: a request with a status", Http2([(":status", "200"), *fields()])),
    (
        75,
        "HTTP/2: a whole request in the method",
        ask2(method="GET / HTTP/1.1\r\nhost: evil\r\n\r\n"),
    ),
]

ROWS = [
    *rows(
        "smuggling",
        [
            (at, what, _CODEC, _hiding(*it, body=body), NOT_HTTP)
            for at, what, it, body in _TWICE
        ],
    ),
    *rows(
        "smuggling",
        [
            (
                at,
                what,
                _CODEC,
                _hiding(*it, body=chunked(words.BODY)),
                NOT_HTTP,
            )
            for at, what, it in _CODINGS
        ],
    ),
    *rows(
        "smuggling",
        [
            (at, what, _CODEC, _hiding(_CHUNKED, body=it), NOT_HTTP)
            for at, what, it in _CHUNKS
        ],
    ),
    *rows(
        "smuggling",
        [
            (
                40,
                "a chunk extension",
                _FRAMED,
                send(
                    _request(
                        _CHUNKED,
                        "connection: close",
                        body=b"%x;evil=1\r\n%s\r\n0\r\n\r\n"
                        % (len(words.BODY), words.BODY),
                    )
                ),
                PASSES,
                is_chat,
            ),
            (
                41,
                "a body in chunks of one byte",
                _FRAMED,
                send(
                    _request(_CHUNKED, "connection: close"),
                    chunked(*(bytes([it]) for it in words.BODY)),
                ),
                PASSES,
                is_chat,
            ),
            (
                26,
                "chunked, folded",
                _FRAMED,
                send(
                    _request(
                        "transfer-encoding:\r\n chunked",
                        "connection: close",
                        body=chunked(words.BODY),
                    )
                ),
                PASSES,
                is_chat,
            ),
            (
                34,
                "a chunk that is longer than it says",
                _CODEC,
                _hiding(_CHUNKED, body=b"2\r\n%s\r\n0\r\n\r\n" % words.BODY),
                refused(400),
            ),
            (
                42,
                "a second request without a key on the connection",
                _OWN,
                send(request(close=False) + request(key=None, close=False), linger=0.3),
                refused(each=(200, 401)),
                is_chat,
            ),
            (
                43,
                "a second request for another model on the connection",
                _OWN,
                send(
                    request(close=False)
                    + request(
                        body=words.BODY.replace(b"tiny-chat", b"private"), close=False
                    ),
                    linger=0.3,
                ),
                refused(each=(200, 404)),
                is_chat,
            ),
            (
                44,
                "a request behind a body of no length",
                "a GET without a length has no body",
                send(
                    _request().replace(b"POST", b"GET")
                    + request(key=None, close=False),
                    linger=0.3,
                ),
                refused(each=(405, 401)),
            ),
            (
                45,
                "HTTP/0.9",
                "HTTP/1.1 and HTTP/2 only",
                send(b"GET /v1/models\r\n\r\n"),
                refused(400, 426, NO_BYTE),
            ),
            (
                46,
                "HTTP/1.0",
                "HTTP/1.1 and HTTP/2 only",
                send(request(version="HTTP/1.0")),
                refused(426, code="http_version_not_supported"),
            ),
            (
                47,
                "HTTP/1.0 with chunks",
                "HTTP/1.1 and HTTP/2 only",
                send(_request(_CHUNKED, version="HTTP/1.0", body=chunked(words.BODY))),
                refused(400, 426),
            ),
            (
                48,
                "a version there is not",
                "HTTP/1.1 and HTTP/2 only",
                send(request(version="HTTP/9.9")),
                refused(400, 426, 505),
            ),
            (
                49,
                "lines that end in a bare line feed",
                _FRAMED,
                send(request().replace(b"\r\n", b"\n")),
                PASSES,
                is_chat,
            ),
            (
                50,
                "a space in front of a colon",
                "the codec refuses it",
                send(request(words.CHAT, "x-a : b")),
                NOT_HTTP,
            ),
            (
                51,
                "a line without a colon",
                "the codec refuses it",
                send(request(words.CHAT, "evil")),
                NOT_HTTP,
            ),
            (
                52,
                "a header without a name",
                "the codec refuses it",
                send(request(words.CHAT, ": evil")),
                NOT_HTTP,
            ),
            (
                53,
                "NUL in a name",
                "the codec refuses it",
                send(request(words.CHAT, "x\0y: 1")),
                NOT_HTTP,
            ),
            (
                54,
                "a space in a name",
                "the codec refuses it",
                send(request(words.CHAT, "x y: 1")),
                NOT_HTTP,
            ),
            (
                55,
                "a first header that is folded",
                "the codec refuses it",
                send(request().replace(b"host:", b" host:")),
                NOT_HTTP,
            ),
            (
                56,
                "a request line of words",
                "the codec refuses it",
                send(b"evil\r\n\r\n"),
                refused(400, NO_BYTE),
            ),
            (
                57,
                "TLS where there is none",
                "the codec refuses it",
                send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64),
                refused(400, NO_BYTE),
            ),
        ],
    ),
    *rows(
        "smuggling",
        [
            (at, what, _FRAMES, it, refused(400, NO_BYTE, code="bad_request"))
            for at, what, it in _HTTP2
        ],
    ),
]
