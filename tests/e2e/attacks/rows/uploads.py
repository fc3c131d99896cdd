"""Bodies that are too large, too slow or not what they seem."""

import gzip

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import Http1, ask, request, send
from tests.e2e.attacks.http2 import ask2
from tests.e2e.attacks.row import (
    INVALID,
    NO_BYTE,
    PASSES,
    Row,
    refused,
    rows,
)
from tests.e2e.attacks.rows.bodies import is_chat

_MIB = 1 << 20
_CODINGS = [
    (20, "gzip", "gzip"),
    (21, "br", "br"),
    (22, "deflate", "deflate"),
    (23, "zstd", "zstd"),
    (24, "x-gzip", "x-gzip"),
    (25, "GZIP in upper case", "GZIP"),
    (26, "gzip twice", "gzip, gzip"),
    (27, "identity", "identity"),
    (28, "an empty coding", ""),
    (29, "an unknown coding", "evil"),
]
_TYPES = [
    (40, "text", "text/plain"),
    (41, "a form", "application/x-www-form-urlencoded"),
    (42, "another charset", "application/json; charset=utf-16"),
    (43, "two types", "text/html, application/json"),
    (44, "no type", ""),
    (45, "a multipart form", "multipart/form-data; boundary=evil"),
]
_BOUND = "buffer: 3 MiB, before anybody is asked"
_DECLARED = "a route for declared lengths"
_CODED = "a route for any content-encoding; no decompressor"
_TYPED = "extproc says what it judged: application/json"
_TOO_LARGE = refused(413, code="request_too_large")
_CUT = refused(413, NO_BYTE, code="request_too_large")
_LATE = refused(408, code="request_timeout")
_HUGE = words.BODY.replace(b"hi", b"x" * (4 * _MIB))
_CHUNK = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
_OPEN = request(words.CHAT, "transfer-encoding: chunked", body=b"", length=False)


def _typed(content_type: str) -> bytes:
    return request().replace(b"application/json", content_type.encode())


_BOMB = gzip.compress(b"{" + b" " * 20 * _MIB + b"}")

ROWS = [
    *rows(
        "body",
        [
            (1, "3 MiB and more, declared", _DECLARED, ask(body=_HUGE), _TOO_LARGE),
            (
                2,
                "3 MiB and more, declared, by nobody",
                _DECLARED,
                ask(body=_HUGE, key=None),
                _TOO_LARGE,
            ),
            (
                13,
                "3 MiB and more, by a client that sends before it reads",
                "the body is read to its end: no reset in place of the answer",
                Http1((request(body=_HUGE)[:-2], b"x", b"x"), reads_late=True),
                _TOO_LARGE,
            ),
            (3, "3 MiB and more on HTTP/2", _BOUND, ask2(body=_HUGE), _CUT),
            (
                4,
                "3 MiB and more in chunks",
                _BOUND,
                send(_OPEN, *([_CHUNK] * 64)),
                _CUT,
            ),
            (
                5,
                "3 MiB and more in chunks, to no path of ours",
                _BOUND,
                send(_OPEN.replace(b"/v1/chat", b"/v3/evil"), *([_CHUNK] * 64)),
                _CUT,
            ),
            (
                6,
                "20 MB declared, nothing sent",
                "a route answers it at once",
                send(
                    request(
                        words.CHAT, "content-length: 20000000", body=b"", length=False
                    )
                ),
                _TOO_LARGE,
            ),
            (
                7,
                "20 MB declared on HTTP/2",
                "a route answers it at once",
                ask2(
                    words.CHAT,
                    ("content-length", "20000000"),
                    body=b"x" * 1000,
                    ends=False,
                ),
                _CUT,
            ),
            (
                8,
                "a length of almost 64 bits",
                "a route answers it at once",
                send(
                    request(
                        words.CHAT,
                        "content-length: 9223372036854775806",
                        body=b"",
                        length=False,
                    )
                ),
                refused(400, 413),
            ),
            (9, "no body", "extproc: a body must be", ask(body=b""), INVALID),
            (
                10,
                "no body, and no length",
                "extproc is asked about the headers, too",
                ask(body=b"", length=False),
                INVALID,
            ),
            (
                11,
                "no body on HTTP/2",
                "extproc is asked about the headers, too",
                ask2(body=b""),
                INVALID,
            ),
            (
                12,
                "100-continue without a body after it",
                "extproc is asked about the headers, too",
                ask(words.CHAT, "expect: 100-continue", body=b""),
                INVALID,
            ),
        ],
    ),
    *rows(
        "body",
        [
            (
                at,
                f"a compressed body: {what}",
                _CODED,
                ask(
                    words.CHAT,
                    f"content-encoding: {it}",
                    body=gzip.compress(words.BODY)
                    if "gzip" in it.lower()
                    else words.BODY,
                ),
                refused(415, code="unsupported_content_encoding"),
            )
            for at, what, it in _CODINGS
        ],
    ),
    *rows(
        "body",
        [
            (
                30,
                "a bomb of 20 MiB in 20 KB",
                _CODED,
                ask(words.CHAT, "content-encoding: gzip", body=_BOMB),
                refused(415),
            ),
            (
                31,
                "a compressed body that does not say so",
                "extproc: UTF-8 JSON",
                ask(body=_BOMB),
                INVALID,
            ),
            (
                32,
                "a compressed body on HTTP/2",
                _CODED,
                ask2(words.CHAT, ("content-encoding", "gzip"), body=_BOMB),
                refused(415),
            ),
            (
                33,
                "a compressed body by its transfer coding",
                "the codec knows chunked only",
                send(
                    request(words.CHAT, "transfer-encoding: gzip", length=False),
                ),
                refused(400, 501),
            ),
        ],
    ),
    *rows(
        "body",
        [
            (
                at,
                f"a type that says something else: {what}",
                _TYPED,
                send(_typed(it)),
                PASSES,
                is_chat,
            )
            for at, what, it in _TYPES
        ],
    ),
    Row(
        "body-50",
        "headers that do not end",
        "request_headers_timeout",
        send(request()[:60]),
        _LATE,
        variant="hurried-headers",
    ),
    Row(
        "body-51",
        "a body that does not end",
        "max_stream_duration",
        send(request()[:-5]),
        _LATE,
        variant="hurried",
    ),
    Row(
        "body-52",
        "a body in chunks that does not end",
        "max_stream_duration",
        send(_OPEN, b"1\r\n{\r\n"),
        _LATE,
        variant="hurried",
    ),
    Row(
        "body-53",
        "a body on HTTP/2 that does not end",
        "max_stream_duration",
        ask2(body=b"{", ends=False),
        _LATE,
        variant="hurried",
    ),
    Row(
        "body-54",
        "a body that does not end, by nobody",
        "max_stream_duration",
        send(request(key=None)[:-5]),
        _LATE,
        variant="hurried",
    ),
]
