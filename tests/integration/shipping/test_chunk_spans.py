"""Spans of chunks on their way to the provider, and what they are linked to."""

import asyncio

import pytest

from tests.integration.billing.records import SAMPLED, TRACES
from tests.integration.shipping.conftest import HOUR, usage
from tollhouse.adapters.tracing import Tracing
from tollhouse.core.chunk import State
from tollhouse.core.trace_context import parse_traceparent

OUTPUT = f"acme|tiny-chat|output|{HOUR}"
INPUT = f"acme|tiny-chat|uncached_input|{HOUR}"
OTHER = f"00-{'c' * 32}-{'d' * 16}-01"
UNSAMPLED = TRACES[1]


def link(traceparent):
    context = parse_traceparent(traceparent)
    assert context is not None
    return context.trace_id, context.span_id


@pytest.fixture
async def tracing(traces):
    tracing = Tracing.open("billing", "test")
    yield tracing
    await asyncio.to_thread(tracing.close)


@pytest.fixture
def aggregator(make_aggregator, tracing):
    return make_aggregator(tracing=tracing)


@pytest.fixture
def told(tracing, traces):
    """Return what is told of chunks, by their ids; of attempts that failed or not.

    On a machine that is busy any may fail by taking too long.
    """

    async def told(*, failed=False):
        await asyncio.to_thread(tracing.close)
        return {
            it.attributes["tollhouse.chunk"]: it
            for it in traces.named("chunk.ship")
            if it.has_failed == failed
        }

    return told


async def test_a_chunk_is_linked_to_one_exchange_that_is_kept(aggregator, told, stripe):
    """The first of those in it; a chunk of other tokens has no part of that."""
    await aggregator.record(usage(output=7), usage(trace=UNSAMPLED, input=1, output=1))
    await aggregator.record(usage(trace=SAMPLED, input=0, output=5))
    await aggregator.record(usage(trace=OTHER, input=0, output=5))
    await aggregator.seal()
    await aggregator.drain()
    spans = await told()

    assert [f"{OUTPUT}|1"] == list(spans)
    span = spans[f"{OUTPUT}|1"]
    assert [link(SAMPLED)] == span.links
    assert ("tollhouse-billing", "") == (span.service, span.parent)
    told_of = dict(span.attributes)
    assert 1 <= told_of.pop("tollhouse.chunk.attempt")
    assert told_of.pop("tollhouse.verdict") in {"accepted", "duplicate"}
    assert {
        "tollhouse.chunk": f"{OUTPUT}|1",
        "tollhouse.chunk.tokens": 18,
        "tollhouse.billing.provider": "stripe",
    } == told_of


async def test_the_next_chunk_has_its_own(aggregator, told, clock, stripe):
    """A trace goes with the tokens it was counted with, and no further."""
    await aggregator.record(usage(trace=SAMPLED, output=5))
    await aggregator.seal()
    await aggregator.drain()
    await aggregator.record(usage(trace=OTHER, output=3))
    clock.now += 3600
    await aggregator.seal()
    await aggregator.drain()
    await aggregator.record(usage(output=3))
    clock.now += 3600
    await aggregator.seal()
    await aggregator.drain()
    spans = await told()

    assert {
        f"{OUTPUT}|1": [link(SAMPLED)],
        f"{OUTPUT}|2": [link(OTHER)],
    } == {id_: it.links for id_, it in spans.items() if id_.startswith(OUTPUT)}


async def test_what_was_counted_before_leaves_no_trace(aggregator, told, stripe):
    """A repeat adds nothing, so its exchange is in no chunk of now."""
    record = usage(trace=SAMPLED, output=5)
    await aggregator.record(record)
    await aggregator.seal()
    await aggregator.record(record)
    traces = [
        await aggregator.redis.call("HGET", f"{{b8}}:window:{it}", "trace")
        for it in (OUTPUT, INPUT)
    ]
    await aggregator.drain()

    assert [None, None] == traces
    assert {f"{OUTPUT}|1", f"{INPUT}|1"} == set(await told())


async def test_a_chunk_of_before_is_read_as_ever(aggregator, told, stripe, db):
    """Sealed by a release that knew of no traces."""
    await aggregator.record(usage(trace=SAMPLED, output=5))
    await aggregator.seal()
    for key in db.scan_iter("{b*}:chunk:*"):
        assert 1 == db.hdel(key, "trace")
    await aggregator.drain()

    assert State.SENT is await aggregator.state(f"{OUTPUT}|1")
    assert {} == await told()


async def test_a_failure_stands_out(aggregator, told, stripe):
    """Of a chunk with nothing that is kept: its code says why."""
    stripe.settings.checked_later = frozenset()
    aggregator.accounts["acme"] = "cus_unknown"
    await aggregator.record(usage(input=0, output=9))
    await aggregator.seal()
    await aggregator.drain()
    span = (await told(failed=True))[f"{OUTPUT}|1"]

    assert ("meter_event_customer_not_found", "poison", []) == (
        span.attributes["error.type"],
        span.attributes["tollhouse.verdict"],
        span.links,
    )
