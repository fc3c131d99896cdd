"""Every request has a trace, of which clients learn the id and choose nothing."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.edge.backend import answer
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import Edge, running_edge
from tests.e2e.secrets.collector import Collector, running_collector
from tollhouse.core.trace_context import parse_traceparent

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
INFER = "/inference.GRPCInferenceService/ModelInfer"
CANARY = "canary0451"
TIMEOUT = "45104510m"
THEIRS = "4bf92f3577b34da6a3ce929d0e0e4736"
EVERY_ONE = {"random_sampling": {"value": 100}, "flush_interval_ms": 50}


@dataclass
class Traced:
    """An Envoy that keeps all traces, and the collector that gets them."""

    edge: Edge
    collector: Collector

    def spans(self) -> list[Span]:
        return [
            span
            for _, message in self.collector.sent
            for of in ExportTraceServiceRequest.FromString(message).resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]

    async def trace(self, id_: str, number: int) -> dict[str, Span]:
        """Return so many spans of a trace by their names, as soon as they came."""
        async with asyncio.timeout(30):
            while True:
                found = {it.name: it for it in self.spans() if it.trace_id.hex() == id_}
                if len(found) >= number:
                    return found
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def traced(tmp_path_factory) -> AsyncIterator[Traced]:
    """One for the module."""
    folder: Path = tmp_path_factory.mktemp("traced")
    with running_collector() as collector:
        port = int(collector.url.rpartition(":")[2])
        async with running_edge(
            folder, find_port, patched=EVERY_ONE, change=exporting_to(port)
        ) as edge:
            yield Traced(edge, collector)


def exporting_to(port: int, *, patience: str = "5s", trusting: bool = False) -> Any:
    """Return a change of a bootstrap: where the collector is, and who begins traces."""
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

    def change(tree: Any) -> None:
        for cluster in tree["static_resources"]["clusters"]:
            if cluster["name"] == "collector":
                [at] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
                at["endpoint"]["address"]["socket_address"]["port_value"] = port
                about = cluster["typed_extension_protocol_options"][options]
                about["common_http_protocol_options"]["max_stream_duration"] = patience
        [listener] = tree["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        [early] = manager["early_header_mutation_extensions"]
        mutations = early["typed_config"]["mutations"]
        if trusting:
            mutations.remove({"remove": "traceparent"})

    return change


async def _post(edge: Edge, path: str = CHAT, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    # A backend says something under our name, which no client may read.
    told = answer(b"{}", extra="x-tollhouse-trace: theirs\r\n")
    script = edge.backend.script(told)
    async with edge.client() as client:
        return await client.post(
            path, json={"model": "m"}, headers={"x-test-script": script, **named}
        )


async def _until_counted(edge: Edge, name: str) -> None:
    async with asyncio.timeout(30):
        while not await edge.counter(name):  # noqa: ASYNC110 - Envoy tells nobody
            await asyncio.sleep(0.02)


def _attributes(span: Span) -> dict[str, str]:
    return {it.key: it.value.string_value for it in span.attributes}


async def test_the_spans_of_an_exchange(traced):
    """From the client's request to the backend's; the ledger says where it stands."""
    response = await _post(traced.edge)
    line = await traced.edge.ended(response.headers["x-tollhouse-exchange"])
    spans = await traced.trace(response.headers["x-tollhouse-trace"], 4)

    ingress = spans.pop("ingress")
    assert spans.keys() == {
        "async envoy.service.auth.v3.Authorization.Check egress",
        "async envoy.service.ext_proc.v3.ExternalProcessor.Process egress",
        "router tiny-chat egress",
    }
    assert {it.parent_span_id for it in spans.values()} == {ingress.span_id}
    assert ingress.parent_span_id == b""
    assert (line["trace_id"], line["span_id"]) == (
        ingress.trace_id.hex(),
        ingress.span_id.hex(),
    )
    told = _attributes(ingress)
    assert (told["tollhouse.tenant"], told["http.route"]) == ("acme", "api")
    assert told["tollhouse.exchange"] == line["exchange"]
    received = traced.edge.backend.received[-1].headers["traceparent"]
    at = parse_traceparent(received)
    assert at is not None
    assert at.is_sampled
    assert at.span_id == spans["router tiny-chat egress"].span_id.hex()


async def test_what_clients_say_is_in_no_span(traced):
    """Wherever they put a secret: it is on its way to a collector and to many eyes."""
    for path, headers in (
        (f"{CHAT}?api_key={CANARY}", {}),
        (f"/{CANARY}", {}),
        (CHAT, {"host": f"{CANARY}.example"}),
        (CHAT, {"user_agent": CANARY, "referer": CANARY, "origin": CANARY}),
        (CHAT, {"authorization": f"Bearer {CANARY}", "cookie": CANARY}),
        (CHAT, {"x_client_trace_id": CANARY, "x_request_id": CANARY}),
        (CHAT, {"tracestate": f"{CANARY}=1", "baggage": f"a={CANARY}"}),
        (CHAT, {"content_encoding": CANARY, "content_type": CANARY}),
    ):
        await _post(traced.edge, path, **headers)
    last = httpx.Response(0)
    async with traced.edge.client(http2=True) as client:
        for method, path in (
            ("POST", f"/{CANARY}/{CANARY}"),
            ("POST", f"{INFER}?{CANARY}"),
            (CANARY.upper(), CHAT),
        ):
            headers = {"content-type": f"application/grpc+{CANARY}"}
            headers |= {"te": "trailers", "grpc-timeout": TIMEOUT, "x-a": CANARY}
            last = await client.request(method, path, headers=headers)
    await traced.trace(last.headers["x-tollhouse-trace"], 1)

    told = b"".join(message for _, message in traced.collector.sent)
    assert b"grpc.timeout" in told  # so the search sees something
    for secret in (CANARY, CANARY.upper(), TIMEOUT):
        assert secret.encode() not in told


async def test_every_answer_names_its_trace(edge, traced):
    """Whoever gave it, and whether the trace is kept or not."""
    for at in (edge, traced.edge):
        answers = [
            await _post(at),
            await _post(at, f"{CHAT}?429"),
            await _post(at, f"{CHAT}?error"),
            await _post(at, authorization="Bearer bad"),
            await _post(at, authorization="Bearer error"),
            await _post(at, "/nowhere"),
            await _post(at, host="nobody.example"),
            await _post(at, content_encoding="gzip"),
            await _post(at, content_type="application/grpc"),
            await _post(at, INFER, content_type="application/grpc"),
        ]
        statuses = [it.status_code for it in answers]
        traces = [it.headers.get("x-tollhouse-trace", "") for it in answers]

        assert statuses == [200, 429, 503, 401, 503, 404, 404, 415, 200, 200]
        assert all(re.fullmatch("[0-9a-f]{32}", it) for it in traces)
        assert len(set(traces)) == len(traces)


async def test_a_trace_that_is_not_kept_goes_on_all_the_same(edge):
    """Backends get its ids, and that nobody will look at them."""
    response = await _post(edge, x_client_trace_id="1")
    at = parse_traceparent(edge.backend.received[-1].headers["traceparent"])

    assert at is not None
    assert at.trace_id == response.headers["x-tollhouse-trace"]
    assert not at.is_sampled


async def test_a_trusted_clients_trace_goes_on(tmp_path):
    """It may keep its trace out of ours, but not put it in: the ratio still counts."""
    with running_collector() as collector:
        port = int(collector.url.rpartition(":")[2])
        change = exporting_to(port, trusting=True)
        async with running_edge(
            tmp_path, find_port, patched=EVERY_ONE, change=change
        ) as edge:
            traced = Traced(edge, collector)
            above = f"00-{THEIRS}-00f067aa0ba902b7"
            unkept = await _post(edge, traceparent=f"{above}-00", tracestate="a=1")
            sent = edge.backend.received[-1].headers
            kept = await _post(edge, traceparent=f"{above}-01")
            later = await _post(edge, traceparent=f"cc{above[2:]}-00".upper())
            taken = parse_traceparent(edge.backend.received[-1].headers["traceparent"])
            for broken in ("nonsense", f"{above}-01-x", f"cc{above[2:]}-01-x"):
                response = await _post(edge, traceparent=broken)
                passed = edge.backend.received[-1].headers["traceparent"]
                assert response.status_code == 200
                assert "x-tollhouse-trace" not in response.headers
                assert (passed, parse_traceparent(passed)) == (broken, None)
            spans = await traced.trace(THEIRS, 4)
            ingresses = [it for it in traced.spans() if it.name == "ingress"]

    assert unkept.headers["x-tollhouse-trace"] == THEIRS
    assert kept.headers["x-tollhouse-trace"] == THEIRS
    assert (sent["traceparent"][:36], sent["traceparent"][-3:]) == (above[:36], "-00")
    assert sent["tracestate"] == "a=1"
    assert spans["ingress"].parent_span_id.hex() == "00f067aa0ba902b7"
    assert len([it for it in ingresses if it.trace_id.hex() == THEIRS]) == 1
    assert later.headers["x-tollhouse-trace"] == THEIRS
    assert taken is not None
    assert taken.trace_id == THEIRS


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a collector that is connected to and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.timed
async def test_a_silent_collector_costs_nothing(silent, tmp_path):
    """At most so many batches wait for it, and not for ever; no request does."""
    patched = EVERY_ONE | {"min_flush_spans": 1}
    change = exporting_to(silent, patience="0.3s")
    async with (
        running_edge(tmp_path, find_port, patched=patched, change=change) as edge,
        edge.client() as client,
    ):
        answers = [await client.get("/healthz") for _ in range(60)]
        counted = {
            name: await edge.counter(f"cluster.collector.{name}")
            for name in ("upstream_rq_active", "upstream_rq_active_overflow")
        }
        await _until_counted(edge, "collector.upstream_rq_max_duration_reached")

    assert {it.status_code for it in answers} == {200}
    assert max(it.elapsed.total_seconds() for it in answers) < 0.3
    assert counted["upstream_rq_active"] <= 8
    assert counted["upstream_rq_active_overflow"] > 20
