"""Spans of admissions, as a collector gets them."""

import asyncio
import dataclasses
import json
import time

import grpc
import grpc.aio
import pytest

from tests.integration.extproc.test_servicer import (
    CHAT,
    body,
    headers,
    of_triton,
    servicer_of,
    with_plan,
)
from tests.integration.extproc.test_streams import (
    ID,
    ask,
    facts,
    opening,
    piece,
    rest_of,
)
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.tracing import Tracing
from tollhouse.core.catalog import RedisDown
from tollhouse.core.limits import Allowance
from tollhouse.core.problems import Unavailable
from tollhouse.core.trace_context import TraceContext
from tollhouse.extproc.trail import MOST_RUNS
from tollhouse.pb.envoy.service.ext_proc.v3 import (
    external_processor_pb2_grpc as ext_proc_grpc,
)

SAMPLED = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
UNSAMPLED = TraceContext(SAMPLED.trace_id, SAMPLED.span_id, False)
EXCHANGE = "tollhouse.exchange"
SECRET = "what nobody may read"


class Edge:
    """Calls the service as Envoy does, in a trace."""

    def __init__(self, stub, context):
        self._stub, self._context = stub, context

    def call(self, context=None):
        given = context or self._context
        return self._stub.Process(metadata=(("traceparent", given.traceparent),))

    async def ask(self, first, *messages, context=None):
        """The last reply there is to some messages."""
        call = self.call(context)
        await call.write(first)
        reply = await call.read()
        for message in messages:
            await call.write(message)
        await call.done_writing()
        _, further = await rest_of(call)
        return further[-1] if further else reply


class Rig:
    """One service that tells of what it does, on a limiter that a test may choose."""

    def __init__(self, server, live, redis, traces):
        self._server, self._live, self._redis = server, live, redis
        self.traces = traces

    async def serve(self, limiter=None, context=SAMPLED):
        made, address = self._server
        self._tracing = Tracing.open("extproc", "test")
        self._servicer = servicer_of(
            self._live, limiter or Limiter(self._redis), self._redis, self._tracing
        )
        self._servicer.add_to(made)
        await made.start()
        self._channel = grpc.aio.insecure_channel(address)
        return Edge(ext_proc_grpc.ExternalProcessorStub(self._channel), context)

    async def told(self):
        """End all, and list the spans: those of admissions, and those below them."""
        await self._channel.close()
        await self._server[0].stop(5)
        await self._servicer.drain()
        await asyncio.to_thread(self._tracing.close)
        admits = self.traces.named("extproc.admit")
        return admits, [it for it in self.traces.spans if it not in admits]


@pytest.fixture
def rig(server, live, redis, traces):
    return Rig(server, live, redis, traces)


def with_model(live, **changes):
    """Change the model of the catalog."""
    model = dataclasses.replace(live.catalog.models["tiny-chat"], **changes)
    live.catalog = dataclasses.replace(live.catalog, models={"tiny-chat": model})


async def test_an_admission_is_in_the_trace_of_its_request(rig, live):
    """With its scripts; who is asked, by whom, and for how much; never what."""
    with_model(live, capacity=1_000_000)  # in the fleet's slot
    edge = await rig.serve()
    prompt = {"messages": [{"role": "user", "content": SECRET}]}
    reply = await edge.ask(headers(), body(CHAT | prompt))
    (span,), scripts = await rig.told()

    admitted = facts(reply)
    assert SAMPLED.traceparent == admitted.trace
    assert ("tollhouse-extproc", SAMPLED.trace_id, SAMPLED.span_id) == (
        span.service,
        span.trace_id,
        span.parent,
    )
    assert {
        "tollhouse.tenant": "acme",
        "tollhouse.key_id": "key",
        "tollhouse.plan": "demo",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "tiny-chat",
        "gen_ai.response.model": "tiny-chat",
        "tollhouse.estimate.input_tokens": admitted.input_estimate,
        "tollhouse.estimate.output_tokens": admitted.output_estimate,
        "tollhouse.units.reserved": admitted.reserved_units,
        "tollhouse.requests": 1,
        "tollhouse.rung": "shared",
        "tollhouse.decision": "admitted",
    } == {it: value for it, value in span.attributes.items() if it != EXCHANGE}
    assert not span.has_failed
    fleets, tenants = scripts
    assert {("redis.reserve", span.span_id)} == {(it.name, it.parent) for it in scripts}
    assert "m0" == fleets.attributes["tollhouse.slot"]
    assert str(tenants.attributes["tollhouse.slot"]).startswith("s")
    assert span.started_ns <= fleets.started_ns <= fleets.ended_ns
    assert fleets.ended_ns <= tenants.started_ns <= tenants.ended_ns <= span.ended_ns
    assert SECRET not in repr(rig.traces.spans)


async def test_what_nobody_chose_leaves_nothing_but_its_name(rig):
    """The trace is known wherever the exchange is, whether or not it is kept."""
    edge = await rig.serve(context=UNSAMPLED)
    await edge.ask(headers())
    admitted = await edge.ask(headers(), body())
    path = "/v2/models/tiny-chat/ready"
    await edge.ask(of_triton(path, method="GET", ends=True))

    assert UNSAMPLED.traceparent == facts(admitted).trace
    assert ([], []) == await rig.told()


async def test_the_clients_own_header_is_not_believed(rig):
    """What Envoy made of it is in the metadata of Envoy's call."""
    edge = await rig.serve()
    message = headers()
    message.request_headers.headers.headers.add(
        key="traceparent", raw_value=f"00-{'c' * 32}-{'d' * 16}-01".encode()
    )
    await edge.ask(message, body())
    (span,), _ = await rig.told()

    assert SAMPLED.trace_id == span.trace_id


async def test_a_refusal_stands_out(rig, live):
    """Whichever was chosen; it is no error of ours, and says which limit."""
    with_plan(live, key=Allowance(requests_per_minute=60, burst_seconds=1))
    edge = await rig.serve(context=UNSAMPLED)
    await edge.ask(headers(), body())
    refusal = await edge.ask(headers(), body())
    await edge.ask(headers(), body(CHAT | {"max_tokens": -1}))
    (limited, invalid), scripts = await rig.told()

    assert 429 == refusal.immediate_response.status.code
    assert "rate_limited:key.requests" == refusal.immediate_response.details
    assert ("refused", "rate_limited", "key.requests") == tuple(
        limited.attributes[f"tollhouse.{it}"] for it in ("decision", "problem", "limit")
    )
    assert UNSAMPLED.trace_id == limited.trace_id
    assert ["redis.reserve"] == [it.name for it in scripts]
    assert "invalid_request" == invalid.attributes["tollhouse.problem"]
    assert not limited.has_failed
    assert not invalid.has_failed


async def test_what_is_in_no_trace_is_no_span(rig):
    """It would begin a trace of its own, under an id that nobody else knows."""
    edge = await rig.serve(context=TraceContext("unreadable", "", True))
    refusal = await edge.ask(headers(), body(CHAT | {"max_tokens": -1}))

    assert 400 == refusal.immediate_response.status.code
    assert "trace_id" not in json.loads(refusal.immediate_response.body)["error"]
    assert ([], []) == await rig.told()


async def test_it_ends_with_the_reply(rig, redis):
    """What is given back after that is nobody's wait."""
    heard = asyncio.Event()

    class Away(Limiter):
        async def reserve(self, *_, **__):
            raise Unavailable("Redis", transient=False)

        async def release(self, *_, **__):
            await heard.wait()

    edge = await rig.serve(Away(redis))
    call = edge.call()
    await call.write(headers())
    await call.write(body())
    _, replies = await rest_of(call)
    heard_ns = time.time_ns()
    heard.set()
    (span,), _ = await rig.told()

    assert 503 == replies[-1].immediate_response.status.code
    assert span.started_ns < span.ended_ns <= heard_ns


async def test_an_outage_is_a_failure_with_its_rung(rig, live, tmp_path):
    """And what was not answered below it: the question, and that it is off."""
    with_plan(live, redis_down=RedisDown.DENY)
    away = await Redis.connect(f"unix://{tmp_path}/nobody.sock")
    edge = await rig.serve(Limiter(away), UNSAMPLED)
    reply = await edge.ask(headers(), body())
    (span,), scripts = await rig.told()
    await away.close()

    assert 503 == reply.immediate_response.status.code
    assert ("unavailable", "denied") == (
        span.attributes["error.type"],
        span.attributes["tollhouse.rung"],
    )
    assert span.has_failed
    assert [("redis.reserve", "UNREACHED"), ("redis.release", "UNREACHED")] == [
        (it.name, it.attributes["error.type"]) for it in scripts
    ]


async def test_a_bug_is_a_failure(rig, redis):
    class Broken(Limiter):
        async def reserve(self, reservation, **_):
            raise KeyError(reservation.exchange_id)

    edge = await rig.serve(Broken(redis), UNSAMPLED)
    call = edge.call()
    await call.write(headers())
    await call.write(body())
    await rest_of(call)
    (span,), _ = await rig.told()

    assert ("failed", "internal") == (
        span.attributes["tollhouse.decision"],
        span.attributes["error.type"],
    )


async def test_who_leaves_is_told_of_with_what_is_given_back(rig, redis):
    """The release comes after the client went, and belongs to it."""
    asked, answers = asyncio.Event(), asyncio.Event()

    class Slow(Limiter):
        async def reserve(self, reservation, **options):
            verdict = await super().reserve(reservation, **options)
            asked.set()
            await answers.wait()
            return verdict

    edge = await rig.serve(Slow(redis))
    call = edge.call()
    await call.write(headers())
    await call.write(body())
    await asked.wait()
    call.cancel()
    (span,), scripts = await rig.told()

    assert "left" == span.attributes["tollhouse.decision"]
    assert {"redis.reserve", "redis.release"} == {it.name for it in scripts}
    assert {span.span_id} == {it.parent for it in scripts}


async def test_what_was_held_says_for_how_long(rig, live):
    with_model(live, capacity=1, hold_seconds=0.2)
    edge = await rig.serve(context=UNSAMPLED)
    await edge.ask(headers(), body())
    await edge.ask(headers(), body())
    (span,), scripts = await rig.told()

    assert 0.19 < float(span.attributes["tollhouse.held_seconds"]) < 5
    assert "model.capacity" == span.attributes["tollhouse.limit"]
    assert len(scripts) > 2


async def test_a_stream_is_one_span_with_a_script_for_each_request(rig):
    """However many they are: what is kept of a long one is bounded."""
    edge = await rig.serve()
    await edge.ask(opening(named=False))
    call = edge.call()
    await call.write(opening())
    await call.write(piece(ask() * (MOST_RUNS + 3), ends=True))
    _, replies = await rest_of(call)
    (first, stream), scripts = await rig.told()

    assert "named" == first.attributes["tollhouse.decision"]
    assert (ID, "admitted", MOST_RUNS + 3) == tuple(
        stream.attributes[f"tollhouse.{it}"]
        for it in ("exchange", "decision", "requests")
    )
    assert MOST_RUNS == len(scripts)
    assert {stream.span_id} == {it.parent for it in scripts}
    told = [it for it in replies if "tollhouse" in it.dynamic_metadata]
    assert {SAMPLED.traceparent} == {facts(it).trace for it in told}


async def test_a_refused_further_request_stands_out(rig, live):
    with_plan(live, key=Allowance(requests_per_minute=60, burst_seconds=1))
    edge = await rig.serve(context=UNSAMPLED)
    call = edge.call()
    await call.write(opening())
    await call.write(piece(ask() + ask()))
    while "tollhouse.refusal" not in (await call.read()).dynamic_metadata:
        pass
    heard_ns = time.time_ns()
    await call.done_writing()
    await rest_of(call)
    (span,), _ = await rig.told()

    assert span.ended_ns <= heard_ns
    assert ("refused", "key.requests", 2) == tuple(
        span.attributes[f"tollhouse.{it}"] for it in ("decision", "limit", "requests")
    )


async def test_a_refusal_names_its_trace(rig):
    """So that whoever complains can be helped."""
    edge = await rig.serve(context=UNSAMPLED)
    refusal = await edge.ask(headers(), body(CHAT | {"max_tokens": -1}))

    error = json.loads(refusal.immediate_response.body)["error"]
    assert UNSAMPLED.trace_id == error["trace_id"]
    await rig.told()
