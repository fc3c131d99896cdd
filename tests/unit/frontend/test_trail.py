"""What is told of a request, and what Triton hears of its trace."""

import httpx
import pytest

from tests.trace_receiver import TraceReceiver, trace_receiver
from tollhouse.adapters.tracing import Tracing
from tollhouse.adapters.triton import Patience, Triton
from tollhouse.core.problems import Kind, Problem, Unavailable
from tollhouse.core.trace_context import TraceContext, parse_traceparent
from tollhouse.frontend.app import Application
from tollhouse.frontend.service import Service
from tollhouse.frontend.trail import Trail, call_facts, error_type

SAMPLED = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"


@pytest.fixture
def told(monkeypatch):
    with trace_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


def heard(trail: Trail) -> TraceContext | None:
    """What Triton is told of the trace."""
    return parse_traceparent(dict(trail.call().metadata).get("traceparent"))


def test_a_kept_trace_goes_through_to_triton(told: TraceReceiver):
    tracing = Tracing.open("frontend", "1")
    trail = Trail(tracing, SAMPLED)
    contexts = [heard(trail), heard(trail)]
    trail.tell({"gen_ai.operation.name": "chat"}, "", is_notable=False)
    tracing.close()

    (generate,) = told.named("frontend.generate")
    calls = told.named("triton.infer")
    assert (generate.trace_id, generate.parent) == ("a" * 32, "b" * 16)
    assert generate.attributes == {"gen_ai.operation.name": "chat"}
    assert [it.parent for it in calls] == [generate.span_id] * 2
    assert contexts == [
        TraceContext("a" * 32, it.span_id, is_sampled=True) for it in calls
    ]


def test_a_call_says_what_it_brought(told: TraceReceiver):
    """Also one that was given up in the middle, and one that never ended."""
    tracing = Tracing.open("frontend", "1")
    trail = Trail(tracing, SAMPLED)
    call = trail.call()
    call.end(call_facts("m", 7, "stop"))
    call = trail.call()
    call.error = "timed_out"
    call.end(call_facts("m", 2, ""))
    trail.call()
    trail.tell({}, "timed_out", is_notable=True)
    tracing.close()

    whole, given_up, open_ = told.named("triton.infer")
    assert whole.attributes["gen_ai.usage.output_tokens"] == 7
    assert not whole.has_failed
    assert "gen_ai.response.finish_reasons" not in given_up.attributes
    assert given_up.has_failed
    assert open_.ended_ns >= open_.started_ns


def test_a_trace_that_is_not_kept_costs_triton_nothing(told: TraceReceiver):
    """It would trace it whatever the flag says."""
    tracing = Tracing.open("frontend", "1")
    trail = Trail(tracing, UNSAMPLED)
    context = heard(trail)
    trail.tell({}, "", is_notable=False)
    tracing.close()

    assert context is None
    assert told.spans == []


def test_a_failure_is_told_of_any_trace(told: TraceReceiver):
    tracing = Tracing.open("frontend", "1")
    trail = Trail(tracing, UNSAMPLED)
    trail.tell({}, "unavailable", is_notable=True)
    tracing.close()

    (generate,) = told.named("frontend.generate")
    assert generate.trace_id == "a" * 32
    assert generate.attributes == {"error.type": "unavailable"}


def test_without_a_collector_the_context_passes_through():
    """Others may still keep the trace: Triton's parent is then Envoy's span."""
    assert heard(Trail(Tracing(), SAMPLED)) == parse_traceparent(SAMPLED)
    assert heard(Trail(Tracing(), "")) is None


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (Problem(Kind.TIMED_OUT, "x"), "timed_out"),
        (Problem(Kind.INVALID_REQUEST, "x"), ""),
        (Unavailable("x"), "unavailable"),
        (ValueError("x"), "internal"),
    ],
)
def test_error_types_are_few_words(error, word):
    assert error_type(error) == word


async def test_an_error_names_the_trace():
    """In the body, in the words of the API; where there is none, none."""
    service = Service({}, Triton.connect("localhost:1"), Patience())
    application = Application(service, Tracing())
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        traced = await client.post("/v1/messages", headers={"traceparent": SAMPLED})
        untraced = await client.post("/v1/chat/completions")
    await service.triton.close()

    assert (traced.status_code, untraced.status_code) == (400, 400)
    assert traced.json()["trace_id"] == "a" * 32
    assert "trace_id" not in untraced.text
