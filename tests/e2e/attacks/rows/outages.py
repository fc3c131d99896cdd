"""With a part of ours away nobody passes, and it does not look like a bad key."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.row import UNAUTHENTICATED, Row, refused

_AWAY = refused(503, code="service_unavailable")

ROWS = [
    Row(
        "outage-01",
        "a good key while authz is away",
        "ext_authz: failure_mode_allow is off, status_on_error 503",
        ask(),
        _AWAY,
        variant="no-authz",
    ),
    Row(
        "outage-02",
        "no key while authz is away",
        "ext_authz: failure_mode_allow is off, status_on_error 503",
        ask(key=None),
        _AWAY,
        variant="no-authz",
    ),
    Row(
        "outage-03",
        "a good key while extproc is away",
        "the proof of admission; ext_proc: status_on_error 503",
        ask(),
        _AWAY,
        variant="no-extproc",
    ),
    Row(
        "outage-04",
        "no key while extproc is away",
        "ext_authz comes first",
        ask(key=None),
        UNAUTHENTICATED,
        variant="no-extproc",
    ),
    Row(
        "outage-10",
        "a good key of Anthropic's API while extproc is away",
        "local_reply_config: in its own error shape",
        ask(words.MESSAGES),
        refused(503),
        variant="no-extproc",
    ),
]
