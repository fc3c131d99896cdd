"""Paths that mean one thing to the gateway and another to whoever is behind it."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.http2 import Http2, ask2, fields
from tests.e2e.attacks.row import (
    NO_BYTE,
    NOT_HTTP,
    PASSES,
    UNAUTHENTICATED,
    UNKNOWN_URL,
    refused,
    rows,
)
from tests.e2e.attacks.rows.bodies import is_chat

_EXACT = "exact paths; anything else is a 404"
_NORMAL = "normalize_path before routing, and the backend gets the result"
_ESCAPED = "path_with_escaped_slashes_action rejects"
_SLASHES = "merge_slashes before routing"
_CHAT = words.CHAT

_UNKNOWN = [
    (1, "a path parameter", f"{_CHAT};x=1"),
    (2, "a path parameter within", "/v1;x=1/chat/completions"),
    (4, "dots with a parameter, to Triton", f"{_CHAT}/..;/..;/..;/v2/repository/index"),
    (5, "a trailing slash", f"{_CHAT}/"),
    (6, "upper case", "/V1/CHAT/COMPLETIONS"),
    (7, "twice encoded dots", "/v1/%252e%252e/v2/repository/index"),
    (8, "a twice encoded slash", "/v1%252fchat%252fcompletions"),
    (9, "an encoded space at the end", f"{_CHAT}%20"),
    (10, "an encoded line break at the end", f"{_CHAT}%0d%0aevil:%201"),
    (11, "an encoded question mark", f"{_CHAT}%3Fx=1"),
    (13, "an overlong encoding of a slash", "/v1%c0%afchat/completions"),
    (14, "a fullwidth slash", "/v1%ef%bc%8fchat/completions"),
    (15, "a longer path", f"{_CHAT}/evil"),
    (16, "a path that begins alike", f"{_CHAT}-evil"),
    (17, "a path of 20 KB", "/" + "a" * 20_000),
    (18, "another path of chats: one that is kept", f"{_CHAT}/chatcmpl-1"),
    (19, "a path of OpenAI that is not served", "/v1/audio/speech"),
    (20, "files of the machine", "/../../../../etc/passwd"),
    (22, "a path parameter of completions", f"{words.COMPLETIONS};x=1"),
    (23, "a path parameter of the list of models", f"{words.MODELS};x=1"),
    (24, "a path below the health check", "/healthz/evil"),
    (21, "a template", "/v1/{chat}/completions"),
    (70, "messages that are only counted", f"{words.MESSAGES}/count_tokens"),
    (71, "messages by the thousand", f"{words.MESSAGES}/batches"),
    (72, "a trailing slash of messages", f"{words.MESSAGES}/"),
    (73, "a path parameter of messages", f"{words.MESSAGES};x=1"),
    (74, "a path that begins like messages", f"{words.MESSAGES}-evil"),
    (75, "Anthropic's old API", "/v1/complete"),
    (76, "a response that is kept", f"{words.RESPONSES}/resp_1"),
    (77, "the end of a response that is kept", f"{words.RESPONSES}/resp_1/cancel"),
    (78, "a path parameter of responses", f"{words.RESPONSES};x=1"),
    (79, "a trailing slash of responses", f"{words.RESPONSES}/"),
    (80, "a path parameter of embeddings", f"{words.EMBEDDINGS};x=1"),
    (81, "a path that begins like embeddings", f"{words.EMBEDDINGS}/evil"),
    (82, "files that a server keeps", "/v1/files"),
    (83, "conversations that a server keeps", "/v1/conversations"),
    (84, "vLLM: scores", "/v1/score"),
    (85, "vLLM: pooling", "/pooling"),
    (86, "two of our paths, joined", f"{words.COMPLETIONS}|{words.MESSAGES}"),
]
_SAME = [
    (30, "dot segments", "/v1/x/../chat/completions", _NORMAL),
    (31, "encoded dot segments", "/v1/x/%2e%2e/chat/completions", _NORMAL),
    (32, "dot segments above the root", "/../../v1/chat/completions", _NORMAL),
    (33, "single dots", "/v1/./chat/./completions", _NORMAL),
    (35, "dots with a parameter", "/v1/chat/..;/chat/completions", _NORMAL),
    (36, "an encoded letter", "/v1/%63hat/completions", _NORMAL),
    (34, "doubled slashes", "//v1///chat//completions", _SLASHES),
]
_REFUSED = [
    (40, "an encoded slash", "/v1%2fchat%2fcompletions"),
    (41, "an encoded slash, upper case", "/v1%2Fchat/completions"),
    (42, "an encoded backslash", "/v1/..%5cchat/completions"),
    (43, "encoded dots and slash", "/v1/chat/..%2f..%2fv2/repository/index"),
]

ROWS = [
    *rows(
        "path", [(at, what, _EXACT, ask(it), UNKNOWN_URL) for at, what, it in _UNKNOWN]
    ),
    *rows(
        "path",
        [(at, what, how, ask(it), PASSES, is_chat) for at, what, it, how in _SAME],
    ),
    *rows(
        "path", [(at, what, _ESCAPED, ask(it), NOT_HTTP) for at, what, it in _REFUSED]
    ),
    *rows(
        "path",
        [
            (50, "an encoded NUL", _NORMAL, ask(f"{_CHAT}%00"), refused(400, 404)),
            (
                51,
                "a path of 40 KB",
                "max_request_headers_kb",
                ask("/" + "a" * 40_000),
                refused(431, code="headers_too_large"),
            ),
            (
                52,
                "backslashes",
                _NORMAL,
                ask("/v1\\x\\..\\chat\\completions"),
                PASSES,
                is_chat,
            ),
            (
                53,
                "a fragment",
                "the codec refuses it",
                ask(f"{_CHAT}#x"),
                refused(400, 404),
            ),
            (
                54,
                "raw bytes beyond ASCII",
                _EXACT,
                ask("/v1/ch\xe4t/completions"),
                refused(400, 404),
            ),
            (
                55,
                "no leading slash",
                _EXACT,
                ask("v1/chat/completions"),
                refused(400, 404),
            ),
            (
                56,
                "a tab within",
                "the codec refuses it",
                ask("/v1/\tchat"),
                refused(400, 404),
            ),
            (
                57,
                "an absolute URL of another host",
                "the URL's host counts, and is unknown",
                ask(f"http://evil.test{_CHAT}"),
                UNKNOWN_URL,
            ),
            (
                58,
                "an absolute URL of the admin",
                _EXACT,
                ask(
                    b"http://127.0.0.1:" + words.ADMIN_PORT + b"/config_dump",
                    method="GET",
                ),
                UNKNOWN_URL,
            ),
            (
                59,
                "an absolute URL of our own",
                "read as its path",
                ask(f"http://localhost{_CHAT}"),
                PASSES,
                is_chat,
            ),
            (
                60,
                "the path as another one's suffix",
                _NORMAL,
                ask(f"{_CHAT}/../../models", method="GET", body=b"", key=None),
                UNAUTHENTICATED,
            ),
            (
                61,
                "another path in x-original-url",
                "no part of ours reads it",
                ask(_CHAT, "x-original-url: /v2/repository/index"),
                PASSES,
                is_chat,
            ),
            (
                62,
                "another path in x-rewrite-url",
                "no part of ours reads it",
                ask("/elsewhere", f"x-rewrite-url: {_CHAT}"),
                UNKNOWN_URL,
            ),
            (
                63,
                "OPTIONS *",
                _EXACT,
                ask("*", method="OPTIONS", body=b""),
                refused(400, 404),
            ),
            (
                64,
                "no leading slash on HTTP/2",
                "the codec refuses it",
                ask2("v1/chat/completions"),
                refused(400, 404, NO_BYTE),
            ),
            (
                65,
                "a line break in the path on HTTP/2",
                "the codec refuses it",
                ask2(f"{_CHAT}\r\nx-tollhouse-admitted: evil"),
                refused(400, NO_BYTE),
            ),
            (
                66,
                "a path parameter on HTTP/2",
                _EXACT,
                ask2(f"{_CHAT};x=1"),
                UNKNOWN_URL,
            ),
            (
                67,
                "no path on HTTP/2",
                "the codec refuses it",
                Http2([it for it in fields() if it[0] != ":path"]),
                refused(400, 404, NO_BYTE),
            ),
        ],
    ),
]
