"""Hosts that nobody of ours has, or two at once."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.http2 import Http2, ask2, fields
from tests.e2e.attacks.row import NO_BYTE, PASSES, UNKNOWN_URL, refused, rows
from tests.e2e.attacks.rows.bodies import is_chat

_DOMAINS = "the virtual host names its hosts; never *"
_UNKNOWN = [
    (1, "another host", "evil.test"),
    (2, "a longer host", "localhost.evil.test"),
    (3, "a shorter host", "ocalhost"),
    (4, "a host with a user", "evil@localhost"),
    (5, "two hosts in one line", "localhost, evil.test"),
    (6, "an empty host", ""),
    (7, "the metadata service", "169.254.169.254"),
    (8, "loopback as one number", "2130706433"),
    (9, "loopback in hexadecimal", "0x7f000001"),
    (10, "any address", "0.0.0.0"),  # noqa: S104  # what an attacker asks for
    (11, "a name of ours", "authz"),
    (12, "a host with a path", "localhost/evil"),
    (13, "a host with a question mark", "localhost?evil"),
    (14, "a host with a number sign", "localhost#evil"),
    (15, "a trailing dot", "localhost."),
]

ROWS = rows(
    "host",
    [
        *(
            (at, what, _DOMAINS, ask(host=it), refused(400, 404))
            for at, what, it in _UNKNOWN
        ),
        (20, "no host", "the codec refuses it", ask(host=None), refused(400)),
        (
            21,
            "two Host lines",
            _DOMAINS,
            ask(words.CHAT, "host: evil.test"),
            refused(400, 404),
        ),
        (
            22,
            "two Host lines, the good one last",
            _DOMAINS,
            ask(words.CHAT, "host: localhost", host="evil.test"),
            refused(400, 404),
        ),
        (
            23,
            "the admin's port",
            "the port is stripped; the path decides",
            ask("/config_dump", host="127.0.0.1:9901", method="GET", body=b""),
            UNKNOWN_URL,
        ),
        (
            24,
            "a port that leads past the list of hosts",
            "strip_any_host_port, then the list",
            ask(host="localhost:1"),
            PASSES,
            is_chat,
        ),
        (
            25,
            "another host in x-forwarded-host",
            _DOMAINS,
            ask(words.CHAT, "x-forwarded-host: localhost", host="evil.test"),
            UNKNOWN_URL,
        ),
        (
            26,
            "another authority on HTTP/2",
            _DOMAINS,
            ask2(authority="evil.test"),
            UNKNOWN_URL,
        ),
        (
            27,
            "an authority and another host on HTTP/2",
            "the authority counts",
            ask2(words.CHAT, ("host", "localhost"), authority="evil.test"),
            refused(400, 404, NO_BYTE),
        ),
        (
            28,
            "a good authority and another host on HTTP/2",
            "the authority counts, the backend gets no other",
            ask2(words.CHAT, ("host", "evil.test")),
            PASSES,
            is_chat,
        ),
        (
            29,
            "neither authority nor host on HTTP/2",
            _DOMAINS,
            Http2([it for it in fields() if it[0] != ":authority"]),
            refused(400, 404, NO_BYTE),
        ),
        (
            30,
            "a user in the authority on HTTP/2",
            _DOMAINS,
            ask2(authority="evil@localhost"),
            refused(400, 404, NO_BYTE),
        ),
    ],
)
