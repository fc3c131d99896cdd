"""Which traces a terminal shows, and when: against the collector's own pages."""

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tollhouse.adapters.address import Address
from tollhouse.adapters.http_server import HttpServer, listening
from tollhouse.cli.console import Console
from tollhouse.cli.receiver import Receiver
from tollhouse.cli.trace_watch import TraceWatch
from tollhouse.collector.app import Application
from tollhouse.collector.metrics import Metrics
from tollhouse.collector.spans import Span, Traces


@dataclass
class Rig:
    """A collector with its clock, and what was shown."""

    traces: Traces
    receiver: Receiver
    shown: io.StringIO
    now: float = 0.0

    def told(
        self,
        trace_id: str,
        service: str = "tollhouse-edge",
        kind: str = "server",
        **attributes: str,
    ) -> None:
        """A request ended, just now."""
        began = time.time_ns()
        span = Span(
            service=service,
            instance="",
            name="ingress",
            kind=kind,
            trace_id=trace_id,
            span_id="a",
            parent="",
            started_ns=began,
            ended_ns=began + 1,
            attributes={name.replace("_", "."): it for name, it in attributes.items()},
            links=[],
            events=[],
            has_failed=False,
            message="",
        )
        self.traces.take([span])

    def watch(self) -> TraceWatch:
        return TraceWatch(self.receiver, Console(self.shown))

    @property
    def lines(self) -> list[str]:
        return self.shown.getvalue().splitlines()


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    rig: Rig
    traces = Traces(lambda: rig.now)
    with listening("127.0.0.1:0") as listener:
        host, port = listener.getsockname()
        http = Address(host=host, port=port)
        rig = Rig(traces, Receiver(http, http), io.StringIO())
        pages = HttpServer(
            Application(traces, Metrics()),
            listener,
            drain_seconds=1,
            keep_alive_seconds=1,
        )
        serving = asyncio.create_task(pages.run())
        yield rig
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


async def test_the_latest_whole_trace_is_shown(rig: Rig):
    """Not one that still grows, nor one that no request of a client began."""
    watch = rig.watch()
    rig.told("first")
    rig.told("latest")
    rig.told("batch", service="tollhouse-billing")
    rig.now += 2
    rig.told("growing")

    assert await watch.show()
    assert [it for it in rig.lines if it.startswith("trace ")] == ["trace latest"]
    assert rig.lines[-1].endswith("/traces/<x-tollhouse-trace of the answer>")
    rig.now += 2
    assert await watch.show()
    assert rig.lines[-3] == "trace growing"  # and how to see others is said once


async def test_what_was_there_or_was_shown_is_not_new(rig: Rig):
    rig.told("before")
    watch = rig.watch()
    rig.now += 2

    assert not await watch.show()
    rig.told("new")
    rig.now += 2
    assert [await watch.show(), await watch.show()] == [True, False]


async def test_an_exchange_whose_envoy_is_gone_is_shown_late(rig: Rig):
    """It is reaped: that it ended is all there is. One that runs is not shown."""
    watch = rig.watch()
    rig.told("runs", "tollhouse-authz")
    rig.told("reaped", "tollhouse-extproc", "client", tollhouse_exchange="id")
    rig.now += 9
    assert not await watch.show()
    rig.now += 2

    assert [await watch.show(), await watch.show()] == [True, False]
    assert [it for it in rig.lines if it.startswith("trace ")] == ["trace reaped"]


async def test_a_collector_that_is_away_stops_nothing(rig: Rig):
    """It may just be starting again."""
    rig.receiver = Receiver(rig.receiver.grpc, Address(path="/nowhere"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await rig.watch().run()
