"""What is told of ended exchanges, by a settler on a real Redis and a real ledger."""

import asyncio
import contextlib
import json
import time

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from tests import examples
from tests.measured import Measured
from tollhouse.adapters.exchange_metrics import ExchangeMetrics
from tollhouse.adapters.ledger import LedgerReader
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.positions import Positions
from tollhouse.adapters.redis.reaper import Reaper
from tollhouse.adapters.tracing import Tracing
from tollhouse.core.ids import created_ms, exchange_id
from tollhouse.core.reservation import Granted, Reservation
from tollhouse.extproc.endings import Endings
from tollhouse.extproc.settler import Settler

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FACTS = examples.facts(reserved_units=121, input_estimate=10, output_estimate=18)
SAMPLED = f"00-{TRACE}-{'1' * 16}-01"
SOON = 30.0


def new_id(number):
    return exchange_id(time.time_ns() // 1_000_000, number.to_bytes(10))


def line(id_, *, admitted=True, trace="", ago_seconds=0.0, **changes):
    """0.5 s of a streamed answer: 11 tokens in, 22 out, the first after 0.1 s."""
    started = time.time() - ago_seconds
    facts = examples.facts(
        reserved_units=121, input_estimate=10, output_estimate=18, trace=trace
    )
    first_ms = round(started * 1000) + 100
    told = {
        "type": "DownstreamEnd",
        "exchange": id_,
        "tenant": "acme",
        "key_id": "k",
        "admitted": admitted or None,
        "facts": facts.encode().decode() if admitted else None,
        "meter": f"sse,9,7,1,11,22,0,-,{first_ms},0,DF,0" if admitted else None,
        "started_at": f"{started:.3f}",
        "duration_ms": 500,
        "code": 200,
        "grpc_status": None,
        "flags": "-",
        "details": "via_upstream",
        "upstream_cluster": "c",
        "upstream_host": "h:1",
        "request_id": "9f0c2f5e",
        "trace_id": TRACE,
        "span_id": PARENT,
    }
    return json.dumps(told | changes).encode() + b"\n"


class Kept:
    """An exporter that keeps spans, and the parents they were told with."""

    lost = 0

    def __init__(self):
        self.spans = []

    def export(self, parent, span):
        self.spans.append((parent, span))
        return parent

    def close(self):
        pass


class Told:
    """What was told: log lines, metrics and spans."""

    def __init__(self, logs, metrics=None):
        self._logs = logs
        self._exporter = Kept()
        self.measured = Measured()
        self.endings = Endings(
            metrics or ExchangeMetrics(self.measured.provider),
            Tracing(self._exporter),
            slow_seconds=lambda: 2.0,
        )

    @property
    def lines(self):
        return [it for it in self._logs if it["event"] == "exchange.ended"]

    @property
    def spans(self):
        return self._exporter.spans

    async def has(self, number):
        async with asyncio.timeout(SOON):
            while len(self.lines) < number:  # noqa: ASYNC110  # another task decides
                await asyncio.sleep(0.02)


@pytest.fixture
def told():
    with capture_logs() as logs:
        yield Told(logs)


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger.jsonl"


@contextlib.asynccontextmanager
async def settling(redis, path, told):
    """A settler at work until the block ends."""
    with LedgerReader(path) as reader:
        settler = Settler(
            reader,
            Positions(redis, "node"),
            Limiter(redis),
            Reaper(redis),
            redis,
            settled=lambda _: None,
            learn=lambda _: None,
            tell=told.endings.tell,
            reap_seconds=0.02,
            grace_seconds=0.1,
        )
        tasks = [asyncio.create_task(part()) for part in (settler.read, settler.reap)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_line_with_all_that_is_asked_for(redis, ledger, told):
    id_ = new_id(1)
    beat = line(id_, type="DownstreamPeriodic")
    ledger.write_bytes(beat + beat + line(id_, refusal="rate_limited:key.requests"))

    async with settling(redis, ledger, told):
        await told.has(1)

    (found,) = told.lines
    assert {
        "event": "exchange.ended",
        "log_level": "info",
        "exchange_id": id_,
        "request_id": "9f0c2f5e",
        "trace_id": TRACE,
        "tenant": "acme",
        "key_id": "k",
        "plan": "demo",
        "operation": "chat",
        "requested_model": "m",
        "model": "m",
        "outcome": "completed",
        "error": None,
        "kind": "final",
        "source": "ledger",
        "code": 200,
        "grpc_status": None,
        "flags": "-",
        "details": "via_upstream",
        "refusal": "rate_limited:key.requests",
        "input_tokens": 11,
        "output_tokens": 22,
        "cached_input_tokens": 0,
        "reasoning_tokens": 0,
        "input_source": "backend",
        "output_source": "backend",
        "reserved_units": 121,
        "used_units": 121,
        "first_token_seconds": pytest.approx(0.1, abs=0.002),
        "duration_seconds": 0.5,
        "cluster": "c",
        "upstream": "h:1",
    } == found
    points = told.measured.points()
    assert [({"tenant": "acme", "model": "m", "outcome": "completed"}, 1)] == points[
        "tollhouse.exchanges"
    ]


async def test_a_refused_one_has_what_is_known(redis, ledger, told):
    """No model: it was named in a body that led nowhere. An old one is no news."""
    ledger.write_bytes(
        line(new_id(1), admitted=False, code=429, ago_seconds=7200)
        + line(new_id(2), admitted=False, code=429, upstream_host=None)
    )

    async with settling(redis, ledger, told):
        await told.has(1)

    (found,) = told.lines
    assert ("refused", "429", 429, "k") == tuple(
        found[name] for name in ("outcome", "error", "code", "key_id")
    )
    assert "model" not in found
    assert not told.spans


async def test_what_the_backend_refused_is_no_failure(redis, ledger, told):
    """The client's bad parameters: not notable, and no error of the fleet's."""
    ledger.write_bytes(
        line(new_id(1), code=400, meter=None)
        + line(new_id(2), code=422, meter=None, trace=SAMPLED)
        + line(new_id(3), code=500, meter=None, trace=SAMPLED)
    )

    async with settling(redis, ledger, told):
        await told.has(3)

    assert [("refused", "400"), ("refused", "422"), ("failed", "500")] == [
        (it["outcome"], it["error"]) for it in told.lines
    ]
    assert [("refused", ""), ("failed", "500")] == [
        (span.attributes["tollhouse.outcome"], span.error) for _, span in told.spans
    ]
    durations = told.measured.points()["gen_ai.server.request.duration"]
    assert {None, "500"} == {names.get("error.type") for names, _ in durations}


async def test_a_ledger_that_is_read_again_is_no_news(redis, ledger, told):
    """Its position was lost; Redis knows what was settled."""
    ids = [new_id(number) for number in range(3)]
    ledger.write_bytes(b"".join(map(line, ids)))
    async with settling(redis, ledger, told):
        await told.has(3)
    await redis.call("DEL", "th:ledger:node")
    with ledger.open("ab") as file:
        file.write(line(new_id(9)))

    async with settling(redis, ledger, told):
        await told.has(4)

    assert 4 == len(told.lines) == len({it["exchange_id"] for it in told.lines})
    assert 4 == sum(it for _, it in told.measured.points()["tollhouse.exchanges"])


async def test_a_reaped_one_is_told_of_too(redis, ledger, told):
    """Its Envoy is gone: what it is billed for is what the line says."""
    id_ = new_id(1)
    limiter = Limiter(redis, lease_seconds=0.05)
    assert isinstance(await limiter.reserve(Reservation(id_, FACTS, ())), Granted)

    async with settling(redis, ledger, told):
        await told.has(1)

    (found,) = told.lines
    assert (id_, "abandoned", "reap", "failed", 10, 0, "estimate") == tuple(
        found[name]
        for name in (
            *("exchange_id", "kind", "source", "outcome"),
            *("input_tokens", "output_tokens", "input_source"),
        )
    )


async def test_a_reaped_ones_span_lasts_until_it_was_reaped(redis, ledger, told):
    """Nobody saw its end: until then it held its room. Its settlement is inside."""
    id_ = new_id(1)
    limiter = Limiter(redis, lease_seconds=0.05)
    facts = replace(FACTS, trace=SAMPLED)
    assert isinstance(await limiter.reserve(Reservation(id_, facts, ())), Granted)

    async with settling(redis, ledger, told):
        await told.has(1)

    ((_, exchange),) = told.spans
    (settled,) = exchange.children
    assert created_ms(id_) * 1_000_000 == exchange.started_ns
    assert exchange.started_ns + 50_000_000 <= settled.started_ns
    assert settled.ended_ns == exchange.ended_ns


async def test_a_sampled_one_is_a_span_below_the_edges(redis, ledger, told):
    """By the GenAI conventions, with the settlement as its child."""
    id_ = new_id(1)
    ledger.write_bytes(line(id_, trace=SAMPLED) + line(new_id(2)))

    async with settling(redis, ledger, told):
        await told.has(2)

    ((parent, exchange),) = told.spans
    (settled,) = exchange.children
    assert ("extproc.settle", "chat m") == (settled.name, exchange.name)
    assert (TRACE, PARENT) == (parent.trace_id, parent.span_id)
    assert 500_000_000 == exchange.ended_ns - exchange.started_ns
    assert settled.ended_ns >= settled.started_ns > exchange.ended_ns - 10**9
    names = exchange.attributes
    assert ("chat", "triton", "m", "m", 11, 22, id_, "acme", "completed") == tuple(
        names[name]
        for name in (
            *("gen_ai.operation.name", "gen_ai.provider.name"),
            *("gen_ai.request.model", "gen_ai.response.model"),
            *("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
            *("tollhouse.exchange", "tollhouse.tenant", "tollhouse.outcome"),
        )
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code": 500, "meter": None}, "500"),
        ({"duration_ms": 2000}, ""),
    ],
)
async def test_what_failed_or_was_slow_is_one_whatever_was_chosen(
    redis, ledger, told, changes, error
):
    ledger.write_bytes(line(new_id(1), **changes) + line(new_id(2)))

    async with settling(redis, ledger, told):
        await told.has(2)

    ((_, span),) = told.spans
    assert ("chat m", error) == (span.name, span.error)


async def test_telling_that_fails_holds_up_nobody(redis, ledger):
    """A bug of ours costs a line of the log, and no bill."""

    class Broken(ExchangeMetrics):
        def ended(self, ending):
            raise KeyError(ending.exchange_id)

    with capture_logs() as logs:
        told = Told(logs, Broken())
        ledger.write_bytes(line(new_id(1)) + line(new_id(2)))
        async with settling(redis, ledger, told):
            await told.has(2)

    assert 2 == sum(it["event"] == "telling.failed" for it in logs)
