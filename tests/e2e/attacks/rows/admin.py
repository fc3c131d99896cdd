"""Envoy's admin: not through the edge, and only a little of it on its own port."""

from tests.e2e.attacks.http1 import ask, ask_admin
from tests.e2e.attacks.row import UNKNOWN_URL, Expect, Row, rows

_EXACT = "exact paths; anything else is a 404"
_ALLOWED = "admin.allow_paths"
_FORBIDDEN = Expect(frozenset({403}), is_plain=True)
_PATHS = [
    ("GET", "/config_dump"),
    ("POST", "/quitquitquit"),
    ("GET", "/stats"),
    ("GET", "/ready"),
    ("GET", "/clusters"),
    ("POST", "/logging?level=trace"),
    ("POST", "/drain_listeners"),
    ("POST", "/healthcheck/fail"),
    ("POST", "/reopen_logs"),
]
_ADMIN = [
    ("the whole configuration, with the proof", "GET", "/config_dump"),
    ("the configuration by its mask", "GET", "/config_dump?mask=bootstrap"),
    ("the end of the process", "POST", "/quitquitquit"),
    ("logs that show headers", "POST", "/logging?level=trace"),
    ("certificates", "GET", "/certs"),
    ("memory", "GET", "/memory"),
    ("a profile", "POST", "/cpuprofiler?enable=y"),
    ("a heap dump", "POST", "/heapprofiler?enable=y"),
    ("every cluster", "GET", "/clusters"),
    ("flags of the runtime", "POST", "/runtime_modify?overload.x=1"),
    ("the contents of requests", "POST", "/tap"),
    ("all of the start's files", "GET", "/init_dump"),
    ("an allowed path's neighbour", "GET", "/ready/../config_dump"),
    ("an allowed path, encoded", "GET", "/ready%2f..%2fconfig_dump"),
    ("the list of paths", "GET", "/"),
]

ROWS: list[Row] = [
    *rows(
        "admin",
        [
            (
                at,
                f"{path} through the edge",
                _EXACT,
                ask(path, method=method, key=None, body=b""),
                UNKNOWN_URL,
            )
            for at, (method, path) in enumerate(_PATHS, start=1)
        ],
    ),
    *rows(
        "admin",
        [
            (
                at,
                f"{what}, from the machine itself",
                _ALLOWED,
                ask_admin(method, path),
                _FORBIDDEN,
            )
            for at, (what, method, path) in enumerate(_ADMIN, start=20)
        ],
    ),
]
