"""What Stripe's answers mean."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.adapters.stripe.outcome import judge
from tollhouse.core.chunk import Answer, Verdict
from tollhouse.core.problems import Unavailable


def body(code: str | None = None, message: str = "No.", kind: str = "t") -> bytes:
    error = {"type": kind, "message": message}
    if code is not None:
        error["code"] = code
    return json.dumps({"error": error}).encode()


PROXY = b"<html>Bad gateway cus_secret</html>"


@pytest.mark.parametrize(
    ("status", "answered", "verdict", "code"),
    [
        (429, body("rate_limit"), Verdict.REFUSED, "rate_limit"),
        (429, body("lock_timeout"), Verdict.REFUSED, "lock_timeout"),
        (429, PROXY, Verdict.REFUSED, "http_429"),
        (400, body("rate_limit"), Verdict.REFUSED, "rate_limit"),
        (409, body("request_conflict"), Verdict.UNKNOWN, "request_conflict"),
        (500, body(kind="api_error"), Verdict.UNKNOWN, "api_error"),
        (503, PROXY, Verdict.UNKNOWN, "http_503"),
        (200, PROXY, Verdict.UNKNOWN, "unreadable"),
        (200, b"", Verdict.UNKNOWN, "unreadable"),
        (200, b"[]", Verdict.UNKNOWN, "unreadable"),
        (200, b"null", Verdict.UNKNOWN, "unreadable"),
        (200, b'{"a": "\xff"}', Verdict.UNKNOWN, "unreadable"),
        (200, b"[" * 100_000, Verdict.UNKNOWN, "unreadable"),
        (200, body("odd"), Verdict.UNKNOWN, "unreadable"),
        (302, b"{}", Verdict.UNKNOWN, "http_302"),
        (
            400,
            body(message="An event already exists with identifier th1_03_ab."),
            Verdict.DUPLICATE,
            "t",
        ),
        (
            400,
            body("duplicate_meter_event", "Whatever."),
            Verdict.DUPLICATE,
            "duplicate_meter_event",
        ),
        # Anywhere else the words mean nothing.
        (
            404,
            body("resource_missing", "already exists with identifier"),
            Verdict.POISON,
            "resource_missing",
        ),
        (400, body("no_meter"), Verdict.POISON, "no_meter"),
        (400, body(kind="idempotency_error"), Verdict.CONFLICT, "idempotency_error"),
        (402, body("card_declined"), Verdict.POISON, "card_declined"),
        (404, body("resource_missing"), Verdict.POISON, "resource_missing"),
        # Of something between Stripe and us: Stripe may have the event or not.
        (400, PROXY, Verdict.UNKNOWN, "http_400"),
        (403, PROXY, Verdict.UNKNOWN, "http_403"),
        (404, b'{"error": "not found"}', Verdict.UNKNOWN, "http_404"),
        (413, b"{}", Verdict.UNKNOWN, "http_413"),
    ],
)
def test_each_answer_has_one_meaning(status, answered, verdict, code):
    """The table of outcome.py."""
    error = judge(status, answered)

    assert error is not None
    assert error.answer() == Answer(verdict, code)
    assert error.status == status


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_nobody_s_fault(status):
    """It stops everything instead of parking chunk after chunk."""
    error = judge(status, body("more_permissions_required", "Key rk_live_abc is no."))

    assert error is not None
    with pytest.raises(Unavailable) as raised:
        error.answer()
    assert not raised.value.transient
    assert "rk_live" not in str(raised.value)


def test_a_success_is_an_object_without_an_error():
    """Whatever is in it."""
    assert judge(200, b'{"object": "billing.meter_event"}') is None
    assert judge(201, b"{}") is None


@pytest.mark.parametrize(
    "code", ["Key sk_live_1 is no key", "x" * 65, "UPPER", "", 7, None, ["a"]]
)
def test_what_is_no_code_is_dropped(code):
    """A text in a code's place must not get into our state or logs."""
    answered = json.dumps({"error": {"code": code, "message": "m"}}).encode()

    error = judge(400, answered)

    assert error is not None
    assert error.answer() == Answer(Verdict.POISON, "http_400")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.integers(100, 599),
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | json_values.map(lambda value: json.dumps({"error": value}).encode()),
)
def test_nothing_a_server_says_breaks_it(status, answered):
    """Only a 2xx with an object counts as done; only a 4xx of Stripe's as poison."""
    error = judge(status, answered)

    if error is None:
        assert status in range(200, 300)
        assert isinstance(json.loads(answered), dict)
    elif error.verdict in (Verdict.POISON, Verdict.DUPLICATE):
        assert status in range(400, 500)
        assert isinstance(json.loads(answered)["error"], dict)
