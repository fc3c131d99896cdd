"""The collector's pages."""

import json

import httpx
import pytest

from tests.unit.collector.test_convert import PARENT, SPAN, TRACE, as_triton_sends
from tollhouse.collector.app import MAX_BODY_BYTES, Application
from tollhouse.collector.metrics import Kind, Metric, Metrics, Origin, Point
from tollhouse.collector.spans import Traces


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
async def client(metrics):
    transport = httpx.ASGITransport(app=Application(Traces(), metrics))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as made:
        yield made


async def test_what_comes_by_http_is_on_the_page(client):
    body = as_triton_sends(parentSpanId=PARENT, kind=2, startTimeUnixNano="7")
    answer = await client.post("/v1/traces", content=body)
    listed = (await client.get("/traces")).json()["traces"]
    trace = (await client.get(f"/traces/{TRACE}")).json()

    assert (answer.status_code, answer.json()) == (200, {})
    ((found),) = listed
    assert found["trace_id"] == TRACE
    assert found["root"] == {"service": "triton", "name": "compute", "started_ns": 7}
    ((span),) = trace["spans"]
    assert (span["span_id"], span["parent"]) == (SPAN, PARENT)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/traces", b"secret", 400),
        ("POST", "/v1/traces", b" " * (MAX_BODY_BYTES + 1), 413),
        ("GET", "/v1/traces", b"", 404),
        ("GET", "/traces/none", b"", 404),
        ("GET", "/", b"", 404),
    ],
)
async def test_what_is_refused(client, method, path, body, status):
    answer = await client.request(method, path, content=body)

    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert "secret" not in answer.text


async def test_metrics_are_text(client, metrics):
    """In the type that Prometheus expects of it."""
    gauge = Metric("a", "", "", Kind.GAUGE, [Point({"ä": "ö"}, 1.0)])
    metrics.take(Origin("job", "1"), [gauge])
    page = await client.get("/metrics")

    assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert page.text.endswith('a{key_="ö",job="job",instance="1"} 1.0\n')


async def test_one_page_lists_a_bounded_number(client):
    for number in range(130):
        body = as_triton_sends(traceId=f"{number:032x}")
        await client.post("/v1/traces", content=body)
    listed = json.loads((await client.get("/traces")).content)["traces"]

    assert len(listed) == 100
    assert listed[0]["trace_id"] == f"{129:032x}"
