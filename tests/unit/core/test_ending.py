"""What became of an exchange, by its last ledger line."""

import json

import pytest

from tests import examples
from tollhouse.core.ending import Outcome, ending, reaped
from tollhouse.core.exchange import Release, Settlement, abandoned
from tollhouse.core.ids import exchange_id
from tollhouse.core.ledger import judge, parse
from tollhouse.core.usage import TokenUsage, UsageKind

BEGAN_MS = 1_800_000_000_000
ID = exchange_id(BEGAN_MS, bytes(10))
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WHOLE = f"sse,9,7,1,11,22,0,-,{BEGAN_MS + 200},{BEGAN_MS + 1200},DF,0"
CUT = f"sse,5,5,0,-,-,-,-,{BEGAN_MS + 200},{BEGAN_MS + 900},,0"
BROKEN = "sse,1,0,0,-,-,-,-,0,0,B,0"


def ended(*, facts=None, admitted=True, **changes):
    """Judge a line of an exchange that took 1.25 s, first token after 0.2 s."""
    facts = examples.facts(trace=f"00-{TRACE}-{SPAN}-01") if facts is None else facts
    told = {
        "type": "DownstreamEnd",
        "exchange": ID,
        "tenant": "acme",
        "key_id": "k",
        "admitted": admitted or None,
        "facts": facts.encode().decode() if admitted else None,
        "meter": WHOLE if admitted else None,
        "started_at": f"{BEGAN_MS / 1000:.3f}",
        "duration_ms": 1250,
        "code": 200,
        "flags": "-",
        "upstream_host": "h:1",
        "request_id": "r",
        "trace_id": TRACE,
        "span_id": "b7ad6b7169203331",
        "grpc_status": None,
    }
    line = parse(json.dumps(told | changes).encode())
    entry = judge(line)
    assert isinstance(entry, Settlement | Release)
    return ending(line, entry)


@pytest.mark.parametrize(
    ("changes", "outcome", "error"),
    [
        ({}, Outcome.COMPLETED, ""),
        ({"flags": "DC", "meter": CUT}, Outcome.LEFT, ""),
        ({"flags": "DR,UR", "meter": CUT}, Outcome.LEFT, ""),
        ({"code": 0, "meter": None}, Outcome.LEFT, ""),
        # The client left when all was said: that is no failure, nor a loss.
        ({"flags": "DC"}, Outcome.COMPLETED, ""),
        ({"code": 503, "flags": "UF", "meter": None}, Outcome.FAILED, "503"),
        ({"code": 429, "meter": None}, Outcome.FAILED, "429"),
        ({"flags": "UR", "meter": CUT}, Outcome.FAILED, "UR"),
        ({"meter": CUT}, Outcome.FAILED, "cut"),
        ({"meter": BROKEN}, Outcome.FAILED, "broken"),
        ({"meter": BROKEN, "grpc_status": 14}, Outcome.FAILED, "grpc_14"),
        # Every answer of the stream was seen, and then its error.
        ({"grpc_status": 13}, Outcome.FAILED, "grpc_13"),
        ({"grpc_status": 5}, Outcome.REFUSED, "grpc_5"),
        # A further message over a limit of ours; a backend that is full.
        ({"grpc_status": 8}, Outcome.REFUSED, "grpc_8"),
        ({"meter": BROKEN, "grpc_status": 8}, Outcome.FAILED, "grpc_8"),
        # Envoy makes a status up where the client was gone before one came.
        ({"grpc_status": 2, "flags": "DR", "meter": CUT}, Outcome.LEFT, ""),
    ],
)
def test_how_an_admitted_one_ended(changes, outcome, error):
    told = ended(**changes)

    assert (outcome, error) == (told.outcome, told.error)
    assert ("acme", ID, "ledger") == (told.tenant, told.exchange_id, told.source)


@pytest.mark.parametrize("code", [400, 404, 408, 413, 415, 422])
def test_a_request_that_the_backend_finds_wrong_is_refused(code):
    """It reached a model and was admitted, and is the client's doing all the same."""
    told = ended(code=code, meter=None)

    assert (Outcome.REFUSED, str(code)) == (told.outcome, told.error)
    assert told.settlement is not None


@pytest.mark.parametrize("code", [401, 402, 403, 407, 429, 302, 500, 502])
def test_what_is_no_clients_doing_is_a_failure(code):
    """The operator's credentials, the backend's load, a redirect, a 5xx."""
    told = ended(code=code, meter=None)

    assert (Outcome.FAILED, str(code)) == (told.outcome, told.error)


@pytest.mark.parametrize("status", range(1, 17))
def test_a_grpc_status_after_admission(status):
    told = ended(grpc_status=status, meter=BROKEN)

    is_clients = status in (3, 5, 9, 11, 12)
    outcome = Outcome.REFUSED if is_clients else Outcome.FAILED
    assert (outcome, f"grpc_{status}") == (told.outcome, told.error)


@pytest.mark.parametrize(
    ("changes", "outcome", "error"),
    [
        ({"code": 429}, Outcome.REFUSED, "429"),
        ({"code": 400}, Outcome.REFUSED, "400"),
        ({"code": 200, "grpc_status": 8}, Outcome.REFUSED, "grpc_8"),
        ({"code": 200, "grpc_status": 14}, Outcome.FAILED, "grpc_14"),
        ({"code": 503}, Outcome.FAILED, "503"),
        ({"code": 0, "flags": "DC"}, Outcome.LEFT, ""),
    ],
)
def test_how_one_ended_that_was_not_admitted(changes, outcome, error):
    """A refusal is the client's; an outage of ours is a failure, also in its place."""
    told = ended(admitted=False, upstream_host=None, **changes)

    assert (outcome, error, None) == (told.outcome, told.error, told.settlement)


def test_times_of_a_streamed_answer():
    """22 tokens: the first after 0.2 s, 21 more in 1.05 s."""
    told = ended()

    assert (1.25, 0.2) == (told.duration_seconds, told.first_token_seconds)
    assert told.token_seconds == pytest.approx(0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"meter": CUT},  # the rest was never seen
        {"meter": "json,0,0,1,11,22,0,-,0,0,DF,0"},  # it came at once
        {"meter": f"sse,1,1,1,11,1,0,-,{BEGAN_MS + 200},0,DF,0"},  # one token
    ],
)
def test_no_time_per_token(changes):
    assert ended(**changes).token_seconds is None


def test_where_it_stands_in_its_trace():
    """Below the edge's span, kept if the edge keeps it; without a line as admitted."""
    told = ended()
    dropped = ended(facts=examples.facts(trace=f"00-{TRACE}-{SPAN}-00"))
    old = ended(span_id=None)
    untraced = ended(facts=examples.facts(), trace_id=None, span_id=None)

    assert told.trace is not None
    assert f"00-{TRACE}-b7ad6b7169203331-01" == told.trace.traceparent
    assert dropped.trace is not None
    assert not dropped.trace.is_sampled
    assert old.trace is not None
    assert SPAN == old.trace.span_id
    assert untraced.trace is None


def test_one_that_was_reaped():
    """Nobody knows when it ended: it has no duration, and failed."""
    told = reaped(abandoned(ID, examples.facts(input_estimate=7), None))

    assert told.settlement is not None
    assert (UsageKind.ABANDONED, TokenUsage(7)) == (
        told.settlement.kind,
        told.settlement.usage,
    )
    assert (Outcome.FAILED, "abandoned", "reap") == (
        told.outcome,
        told.error,
        told.source,
    )
    assert (None, None) == (told.duration_seconds, told.token_seconds)
