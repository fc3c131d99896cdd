"""Redaction and the shape of a log line."""

import io
import json
import logging
import warnings

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from tollhouse.adapters import logs

KEY_ID = "abc123def456"
SECRET = "Zx9" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC2eF4hJ6kL8n"
KEY = f"th_{KEY_ID}_{SECRET}"
JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.c2lnbmF0dXJl"


@pytest.fixture
def lines():
    """Everything logged so far, parsed; puts the logging back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.configure("authz", "info", stream=out)
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"key {KEY} refused", f"key th_{KEY_ID}_[redacted] refused"),
        (f"cut {KEY[:30]}", f"cut th_{KEY_ID}_[redacted]"),
        (f"Authorization: Bearer {KEY}", "Authorization: [redacted] [redacted]"),
        ("bearer abc.def", "bearer [redacted]"),
        (f"Bearer {KEY},Bearer x", "Bearer [redacted],Bearer [redacted]"),
        ("Basic dXNlcjpwdw==", "Basic [redacted]"),
        (f"jwt {JWT}", "jwt [redacted]"),
        ("sk-proj-abcdefghijklmnop", "[redacted]"),
        ("sk_live_abcdefghijkl", "[redacted]"),
        ("redis://me:hunter2@db:6379/0", "redis://[redacted]@db:6379/0"),
        ("redis://:hunter2@db/0", "redis://[redacted]@db/0"),
        ("password='hunter2'", "password='[redacted]'"),
        (SECRET, "[redacted]"),
        # What must stay readable:
        ("0198c0de-7abc-7def-8123-456789abcdef",) * 2,
        ("unix:///run/tollhouse/redis.sock",) * 2,
        ("sha256:" + "0a1b2c3d" * 8,) * 2,
        ("tenant acme-1 has no plan",) * 2,
    ],
)
def test_text(text: str, expected: str) -> None:
    """A secret inside a sentence goes; what an operator needs stays."""
    assert expected == logs.redact_text(text)


@given(
    st.text("abksr019_-.: =/TZAy", max_size=70)
    | st.from_regex(r"(sk|rk|pk|whsec|th|eyJ)[-_][a-z0-9._-]{0,30}", fullmatch=True)
    | st.from_regex(r"(password|cookie|bearer)[:= ][a-z0-9]{1,9}", fullmatch=True)
)
@example("sk-" + "a" * 12)
@example("th_a_b")
def test_what_is_passed_unread_has_nothing_to_take_out(text: str) -> None:
    """The short cut for ids and words leaves nothing that the patterns would take."""
    rest = " " + "." * 70  # too long for the short cut, and harmless

    assert logs.redact_text(text) + rest == logs.redact_text(text + rest)


@pytest.mark.parametrize(
    "name",
    ["authorization", "Authorization", "api_key", "x-api-key", "secret", "Set-Cookie"],
)
def test_secret_names(name: str) -> None:
    """A value under a secret's name goes whatever it looks like."""
    expected = {name: "[redacted]"}

    assert expected == logs.redact(None, "info", {name: "plain"})


def test_content() -> None:
    """Prompts and completions go; counts under the same names stay."""
    got = logs.redact(
        None, "info", {"prompt": "hello", "messages": [{"role": "user"}], "input": 12}
    )

    assert got == {"prompt": "[redacted]", "messages": "[redacted]", "input": 12}


def test_depth() -> None:
    """Secrets go at any depth, in names too, and nothing recurses forever."""
    loop: list[object] = []
    loop.append(loop)
    got = logs.redact(
        None,
        "info",
        {"facts": [{"headers": {"authorization": "x", KEY: (KEY,)}}], "loop": loop},
    )

    assert KEY not in repr(got)
    assert got["facts"][0]["headers"]["authorization"] == "[redacted]"


def test_long_value() -> None:
    """One value can't fill the log."""
    got = logs.redact(None, "info", {"details": "a " * 100_000})

    assert len(got["details"]) < 20_000


def test_line(lines) -> None:
    """A line is one JSON object that starts with the time and the event's name."""
    structlog.get_logger().info("key.created", tenant="acme", key_id=KEY_ID, note=KEY)
    (line,) = lines()

    assert list(line)[:2] == ["at", "event"]
    assert line["event"] == "key.created"
    assert (
        line["service"],
        line["level"],
        line["tenant"],
        line["key_id"],
    ) == ("authz", "info", "acme", KEY_ID)
    assert f"th_{KEY_ID}_[redacted]" == line["note"]


def test_level(lines) -> None:
    """Events under the level are not written."""
    structlog.get_logger().debug("cache.looked_up")

    assert lines() == []


def test_exception(lines) -> None:
    """A traceback is one field, and clean."""
    try:
        int(KEY)
    except ValueError:
        structlog.get_logger().exception("check.failed")
    (line,) = lines()

    assert "Traceback" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_stdlib(lines) -> None:
    """Library records take the same way out; their INFO chatter does not."""
    logging.getLogger("grpc").info("chatter")
    logging.getLogger("grpc").error("lost %s", f"Bearer {KEY}")
    (line,) = lines()

    assert (
        line["event"],
        line["library"],
        line["level"],
        line["message"],
    ) == ("library.logged", "grpc", "error", "lost Bearer [redacted]")


def test_stdlib_exception(lines) -> None:
    """Lost exceptions of asyncio come through logging: their text is cleaned."""
    try:
        int(KEY)
    except ValueError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved")
    (line,) = lines()

    assert "Traceback" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_warnings(lines) -> None:
    """A Python warning becomes a line instead of text on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
    (line,) = lines()

    assert (line["event"], line["library"]) == ("library.logged", "py.warnings")


def test_unknown_level() -> None:
    """A mistyped level is refused, not ignored."""
    with pytest.raises(ValueError, match="none of debug"):
        logs.configure("authz", "loud")


def told_together(*events):
    together = logs.Together()
    for event, facts in events:
        together.info(event, facts)
    together.write()


def test_together_events_are_as_a_loggers(lines):
    """Keys in the same order, secrets out, what is bound to the context in."""
    facts = {"tenant": "acme", "note": KEY, "key_id": KEY_ID, "seconds": 0.5}
    with structlog.contextvars.bound_contextvars(exchange_id="x"):
        structlog.get_logger().info("exchange.ended", **facts)
        told_together(("exchange.ended", facts), ("key.created", {"note": None}))

    alone, *together = [{**line, "at": ""} for line in lines()]
    of_key = {
        "at": "",
        "event": "key.created",
        "note": None,
        "exchange_id": "x",
        "level": "info",
        "service": "authz",
    }
    assert [list(alone.items()), list(of_key.items())] == [
        list(line.items()) for line in together
    ]


def test_together_events_are_written_once(lines):
    together = logs.Together()
    together.info("exchange.ended", {})
    before = lines()
    together.write()
    together.write()

    assert (0, 1) == (len(before), len(lines()))


@pytest.mark.usefixtures("lines")  # which puts the logging back
def test_together_events_keep_to_the_level():
    out = io.StringIO()
    logs.configure("authz", "warning", stream=out)
    told_together(("exchange.ended", {}))

    assert not out.getvalue()


def test_a_word_met_before_hides_no_secret(lines):
    """What is plain under one name is not under another."""
    for _ in range(2):
        structlog.get_logger().info("a.b", flavour="vanilla", password="vanilla")

    assert [("vanilla", "[redacted]")] * 2 == [
        (line["flavour"], line["password"]) for line in lines()
    ]
