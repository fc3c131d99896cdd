"""No request reaches a backend unless extproc said so, whatever fails."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2

from tests.e2e.edge import services
from tests.e2e.edge.backend import answer
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import KEY, Edge, running_edge

pytestmark = pytest.mark.asyncio(loop_scope="session")

CLIENTS_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_PATHS = ["/v1/chat/completions", "/v1/completions"]


async def _post(
    edge: Edge, path: str = _PATHS[0], *, http2: bool = False, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    script = edge.backend.script(answer(b"{}"))
    async with edge.client(http2=http2) as client:
        return await client.post(
            path, json={"model": "m"}, headers={"x-test-script": script, **named}
        )


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("path", _PATHS)
async def test_admitted(edge, path, http2):
    """What extproc admits arrives once, with its words and without the client's."""
    before = len(edge.backend.received)

    response = await _post(
        edge,
        path,
        http2=http2,
        x_tollhouse_admitted="forged",
        x_tollhouse_cluster="authz",
        x_tollhouse_default_max_tokens="true",
        X_TOLLHOUSE_EXCHANGE="forged",
        x_envoy_upstream_rq_timeout_ms="1",
        x_envoy_retry_on="5xx",
        x_request_id="forged",
        cookie="a=b",
        traceparent=f"00-{CLIENTS_TRACE}-00f067aa0ba902b7-01",
    )

    assert response.status_code == 200
    (received,) = edge.backend.received[before:]
    assert received.line == f"POST {path} HTTP/1.1"
    assert received.headers["x-tollhouse-exchange"] == "an-exchange"
    assert received.headers["x-request-id"] == response.headers["x-request-id"]
    assert not received.headers.keys() & {
        "x-tollhouse-admitted",
        "x-tollhouse-cluster",
        "x-tollhouse-default-max-tokens",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-retry-on",
        "x-envoy-internal",
        "authorization",
        "cookie",
        "accept-encoding",
    }
    assert CLIENTS_TRACE not in received.headers["traceparent"]


async def test_services_see_no_more_than_they_need(edge):
    """The key goes to authz alone; neither gets the client's other headers."""
    await _post(edge, cookie="a=b")

    checked = edge.authorization.checked[-1].attributes.request.http
    assert set(checked.headers) == {"authorization", "x-request-id"}
    assert set(edge.processor.headers[-1]) == {":method", ":path", "content-type"}


@pytest.mark.parametrize("path", _PATHS)
@pytest.mark.parametrize("forged", [None, services.PROOF])
@pytest.mark.parametrize(
    "behaviour",
    [
        "close",
        "close@headers",
        "error",
        "error@headers",
        "hang",
        "forget",
        "wrong-proof",
        "no-cluster",
        "path",
    ],
)
async def test_not_admitted(edge, behaviour, forged, path):
    """An extproc that ends, fails or forgets lets nobody through.

    Not even with the right proof in the client's own header.
    """
    before = len(edge.backend.received)
    headers = {"x_tollhouse_admitted": forged, "x_tollhouse_cluster": "tiny-chat"}

    response = await _post(edge, f"{path}?{behaviour}", **(headers if forged else {}))

    assert response.status_code == (504 if behaviour == "hang" else 503)
    assert response.json()["error"]["type"] == "server_error"
    assert len(edge.backend.received) == before


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [("429", 429), ("429@headers", 429), ("400", 400), ("404@headers", 404)],
)
async def test_refused(edge, behaviour, status):
    """Extproc's own words reach the client as they are."""
    before = len(edge.backend.received)

    response = await _post(edge, f"{_PATHS[0]}?{behaviour}")

    assert (response.status_code, response.content) == (status, services.REFUSED)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "7"
    assert len(edge.backend.received) == before


@pytest.mark.parametrize(
    ("key", "status"),
    [("Bearer wrong", 401), ("", 401), ("Bearer error", 503), ("Bearer slow", 503)],
)
async def test_not_authorised(edge, key, status):
    """A wrong key is a 401 in authz's words; its failure or slowness is a 503."""
    before = len(edge.backend.received), len(edge.processor.headers)

    response = await _post(edge, authorization=key)

    assert response.status_code == status
    if status == 401:
        assert response.content == services.DENIED
        assert response.headers["www-authenticate"] == "Bearer"
    else:
        assert response.json()["error"]["code"] == "service_unavailable"
        assert response.headers["retry-after"] == "1"
    assert (len(edge.backend.received), len(edge.processor.headers)) == before


@pytest_asyncio.fixture(loop_scope="session", params=["authz", "extproc"])
async def lame_edge(request, tmp_path) -> AsyncIterator[Edge]:
    """An edge one of whose services nobody runs."""
    async with running_edge(
        tmp_path,
        find_port,
        authz=request.param != "authz",
        extproc=request.param != "extproc",
    ) as edge:
        yield edge


@pytest.mark.timed
async def test_service_down(lame_edge):
    """A service that is away is a 503 at once; a wrong key is still a 401."""
    good = await _post(lame_edge)
    wrong = await _post(lame_edge, authorization="Bearer wrong")

    authz_is_up = bool(lame_edge.authorization.checked)
    assert good.status_code == 503
    assert wrong.status_code == (401 if authz_is_up else 503)
    assert max(good.elapsed, wrong.elapsed).total_seconds() < 0.4
    assert lame_edge.backend.received == []


async def test_models_is_extprocs(edge):
    """GET /v1/models has no way to a backend; extproc answers from the headers."""
    async with edge.client() as client:
        answered = await client.get("/v1/models?200@headers")
        admitted = await client.get("/v1/models")

    assert (answered.status_code, answered.content) == (200, services.REFUSED)
    assert admitted.status_code == 503


async def test_backend_down(edge):
    """A backend nobody runs is a 503 without a word about it."""
    await edge.backend.stop()
    try:
        response = await _post(edge)
    finally:
        await edge.backend.start()

    assert response.status_code == 503
    assert response.json()["error"]["code"] == "service_unavailable"
    line = await edge.ended(response.headers["x-tollhouse-exchange"])
    assert (line["code"], line["admitted"], line["meter"]) == (503, True, None)


async def test_a_grpc_client_is_refused_in_grpc(tmp_path):
    """RESOURCE_EXHAUSTED with the wait; UNAVAILABLE would be retried at once."""
    async with (
        running_edge(tmp_path, find_port, without_route="grpc-unimplemented") as edge,
        grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel,
    ):
        ask: Any = channel.unary_unary(f"{_PATHS[0]}?grpc@headers")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(b"", metadata=[("authorization", KEY)])
        assert not edge.backend.received

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == services.TOO_FAST
    trailers = dict(caught.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1500
