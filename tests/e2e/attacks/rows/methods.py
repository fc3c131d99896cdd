"""Methods, upgrades and tunnels other than the one POST a path answers."""

import itertools

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.http2 import Http2, fields
from tests.e2e.attacks.row import (
    NO_BYTE,
    PASSES,
    Row,
    refused,
    rows,
)
from tests.e2e.attacks.rows.bodies import is_chat

_ROUTE = "a route per path for every other method"
_NO_UPGRADE = "no upgrade_configs"
_NOT_POST = refused(405, code="method_not_allowed", headers=(("allow", "POST"),))
_NOT_GET = refused(405, code="method_not_allowed", headers=(("allow", "GET"),))
_UPGRADES = [
    (30, "a WebSocket", "websocket"),
    (31, "another protocol", "evil/1.0"),
    (32, "TLS within", "TLS/1.0"),
]
_TUNNEL = [it for it in fields(method="CONNECT") if it[0] not in (":scheme", ":path")]

ROWS = [
    *rows(
        "method",
        [
            (at, method, _ROUTE, ask(method=method), _NOT_POST)
            for at, method in enumerate(
                ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"), start=1
            )
        ],
    ),
    *rows(
        "method",
        [
            (10, "an unknown method", _ROUTE, ask(method="EVIL"), refused(400, 405)),
            (11, "lower case", _ROUTE, ask(method="post"), refused(400, 405)),
            (
                12,
                "a method of 10 KB",
                _ROUTE,
                ask(method="A" * 10_000),
                refused(400, 405, 431),
            ),
            (
                13,
                "another method in x-http-method-override",
                "no part of ours reads it",
                ask(words.CHAT, "x-http-method-override: DELETE"),
                PASSES,
                is_chat,
            ),
            (
                14,
                "POST in x-http-method-override of a GET",
                _ROUTE,
                ask(words.CHAT, "x-http-method-override: POST", method="GET"),
                _NOT_POST,
            ),
            (
                15,
                "GET of completions",
                _ROUTE,
                ask(words.COMPLETIONS, method="GET"),
                _NOT_POST,
            ),
            (16, "POST to the list of models", _ROUTE, ask(words.MODELS), _NOT_GET),
            (
                17,
                "DELETE of the list of models",
                _ROUTE,
                ask(words.MODELS, method="DELETE"),
                _NOT_GET,
            ),
            (
                40,
                "POST to the path of one model",
                _ROUTE,
                ask(f"{words.MODELS}/tiny-chat"),
                _NOT_GET,
            ),
            (
                41,
                "DELETE of one model",
                _ROUTE,
                ask(f"{words.MODELS}/tiny-chat", method="DELETE", body=b""),
                _NOT_GET,
            ),
            *(
                (at, f"{method} of {path}", _ROUTE, ask(path, method=method), _NOT_POST)
                for at, (path, method) in enumerate(
                    itertools.product(
                        (words.EMBEDDINGS, words.RESPONSES, words.MESSAGES),
                        ("GET", "DELETE", "PUT"),
                    ),
                    start=50,
                )
            ),
            (18, "POST to the health check", _ROUTE, ask("/healthz"), _NOT_GET),
            (
                19,
                "the health check by nobody asks nobody",
                "ext_proc only on the routes before admission",
                ask("/healthz", method="GET", body=b"", key=None),
                PASSES,
            ),
            (
                20,
                "a tunnel (CONNECT)",
                "a route for CONNECT",
                ask("localhost:443", method="CONNECT", body=b""),
                refused(400, 403, 404, 405),
            ),
            (
                21,
                "a tunnel to the admin (CONNECT)",
                "a route for CONNECT",
                ask(
                    b"127.0.0.1:" + words.ADMIN_PORT,
                    method="CONNECT",
                    host=None,
                    body=b"",
                ),
                refused(400, 403, 404, 405),
            ),
            (
                22,
                "a tunnel on HTTP/2",
                "a route for CONNECT",
                Http2(_TUNNEL, body=b"", ends=False),
                refused(400, 404, 405, NO_BYTE),
            ),
            (
                25,
                "a tunnel by nobody (CONNECT)",
                "a route for CONNECT",
                ask("localhost:443", method="CONNECT", body=b"", key=None),
                refused(400, 403, 404, 405),
            ),
            (
                23,
                "a WebSocket on HTTP/2 (extended CONNECT)",
                "allow_connect is off",
                Http2(
                    [*fields(method="CONNECT"), (":protocol", "websocket")],
                    body=b"",
                    ends=False,
                ),
                refused(400, 403, 404, 405, NO_BYTE),
            ),
            *(
                (
                    at,
                    f"an upgrade: {what}",
                    _NO_UPGRADE,
                    ask(
                        words.CHAT,
                        "connection: upgrade",
                        f"upgrade: {name}",
                        close=False,
                    ),
                    refused(403, code="upgrade_not_supported"),
                )
                for at, what, name in _UPGRADES
            ),
            (
                33,
                "an upgrade: UDP in HTTP",
                _NO_UPGRADE,
                ask(
                    words.CHAT,
                    "connection: upgrade",
                    "upgrade: connect-udp",
                    close=False,
                ),
                refused(403, 404),
            ),
            (
                34,
                "an upgrade to HTTP/2 in clear text",
                "ignored: it stays HTTP/1.1",
                ask(
                    words.CHAT,
                    "connection: upgrade, http2-settings",
                    "upgrade: h2c",
                    "http2-settings: AAMAAABkAAQAAP__",
                    close=False,
                ),
                PASSES,
                is_chat,
            ),
        ],
    ),
    Row(
        "method-24",
        "a tunnel to a host that is not ours (CONNECT)",
        "max_stream_duration",
        ask("evil.test:443", method="CONNECT", host=None, body=b""),
        refused(404, 408),
        variant="hurried",
    ),
]
