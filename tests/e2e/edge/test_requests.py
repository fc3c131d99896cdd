"""Requests of any shape get an answer in OpenAI's words, soon, on both protocols."""

import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.edge import wire
from tests.e2e.edge.backend import answer
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import Edge, running_edge

pytestmark = pytest.mark.asyncio(loop_scope="session")

_MIB = 1 << 20
_CHAT = "/v1/chat/completions"


def _code(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    code: str = error["code"]
    return code


async def _undeclared(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("size", [1, 100_000, 1_500_000, 3 * _MIB])
@pytest.mark.parametrize("declared", [True, False])
async def test_body_within_the_bound(edge, size, declared, http2):
    """A body of up to 3 MiB arrives whole, declared or not."""
    script = edge.backend.script(answer(b"{}"))
    content = b"x" * size
    async with edge.client(http2=http2) as client:
        response = await client.post(
            _CHAT,
            content=content if declared else _undeclared(content),
            headers={"x-test-script": script},
        )

    assert response.status_code == 200
    assert edge.backend.received[-1].body == content


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("path", [_CHAT, "/v1/completions", "/elsewhere"])
@pytest.mark.parametrize("size", [3 * _MIB + 1, 4 * _MIB, 8 * _MIB - 1])
async def test_body_over_the_bound(edge, size, path, http2):
    """A declared length over 3 MiB is a 413 before anybody is asked."""
    before = len(edge.authorization.checked)
    async with edge.client(http2=http2) as client:
        response = await client.post(path, content=b"x" * size)

    assert (response.status_code, _code(response)) == (413, "request_too_large")
    assert len(edge.authorization.checked) == before


@pytest.mark.parametrize("size", [3 * _MIB + 1, 4 * _MIB, 20 * _MIB])
async def test_undeclared_body_over_the_bound(edge, size):
    """An undeclared one is cut off at the bound, with a 413 for who listens."""
    before = len(edge.authorization.checked)
    head = wire.request(headers=["transfer-encoding: chunked"], length=False)
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"

    answers = [
        wire.status(
            await wire.exchange(
                edge, head, *([chunk] * (size // 65_536 + 1)), b"0\r\n\r\n"
            )
        ),
        await wire.upload_http2(edge, size),
    ]

    assert answers == [413, 413]
    assert len(edge.authorization.checked) == before


async def test_declared_body_far_over_the_bound(edge):
    """From 8 MiB on a declared length is answered without reading on."""
    head = wire.request(headers=["content-length: 20000000"], length=False)

    answer = await wire.exchange(edge, head, *([b"x" * 65_536] * 200))

    assert wire.status(answer) == 413
    assert await wire.upload_http2(edge, 20_000_000, declared=True) == 413


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("path", [_CHAT, "/v1/models", "/elsewhere"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "identity", "gzip, gzip", ""])
async def test_content_encoding(edge, encoding, path, http2):
    """Any content-encoding is a 415, even an empty one."""
    async with edge.client(http2=http2) as client:
        response = await client.post(
            path,
            content=gzip.compress(b"{}" * 1000),
            headers={"content-encoding": encoding},
        )

    assert response.status_code == 415
    assert _code(response) == "unsupported_content_encoding"


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (_CHAT, "POST"),
        ("/v1/completions", "POST"),
        ("/v1/models", "GET"),
        ("/healthz", "GET"),
    ],
)
async def test_method(edge, path, allowed, http2):
    """A method that the path does not answer is a 405 that names the right one."""
    methods = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"}
    async with edge.client(http2=http2) as client:
        for method in sorted(methods - {allowed}):
            response = await client.request(method, path)

            assert (response.status_code, response.headers["allow"]) == (405, allowed)
            assert method == "HEAD" or _code(response) == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/chat/completions/",
        "/v1/chat/completions;x=1",
        "/v1/Chat/completions",
        "/v1/chat/completions%20",
        "/v1/chat/completions%252f",
        "/v1/audio/speech",
        "/v1/messages/count_tokens",
        "/metrics",
        "/stats",
        "//evil",
    ],
)
async def test_unknown_path(edge, path):
    """Paths are exact; everything else is a 404, whoever asks."""
    before = len(edge.backend.received)
    answer = await wire.exchange(edge, wire.request(path, headers=["x-test-script: 0"]))

    assert wire.status(answer) == 404
    assert b'"code":"unknown_url"' in answer
    assert len(edge.backend.received) == before


async def test_dot_segments_and_slashes_are_resolved(edge):
    """A path is normalised before it is matched; escaped slashes are refused."""
    script = edge.backend.script(answer(b"{}"))
    headers = [f"x-test-script: {script}"]
    paths = ["/v1/x/../chat/completions", "//v1///chat/completions?a=b"]
    statuses = [
        wire.status(
            await wire.exchange(edge, wire.request(path, body=b"{}", headers=headers))
        )
        for path in [*paths, "/v1%2fchat/completions", "/v1/..%5cchat/completions"]
    ]

    assert statuses == [200, 200, 400, 400]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        (["content-length: 5"], 400, "bad_request"),
        (["transfer-encoding: chunked"], 400, "bad_request"),
        (["transfer-encoding: gzip"], 400, "bad_request"),
        (["x_tenant_id: acme"], 400, "bad_request"),
        (["x-long: " + "x" * 40_000], 431, "headers_too_large"),
        ([f"x-{i}: 1" for i in range(120)], 431, "headers_too_large"),
        (["connection: upgrade", "upgrade: websocket"], 403, "upgrade_not_supported"),
    ],
)
async def test_bad_headers(edge, headers, status, code):
    """What is not plain HTTP is refused in the same words."""
    answer = await wire.exchange(edge, wire.request(headers=headers))

    assert wire.status(answer) == status
    assert b"content-type: application/json" in answer
    assert f'"code":"{code}"'.encode() in answer


@pytest.mark.parametrize("host", ["evil.test", "localhost.evil", "127.0.0.1,evil", ""])
async def test_unknown_host(edge, host):
    """A host that no virtual host names is a 404 before any filter."""
    before = len(edge.authorization.checked)
    request = wire.request(body=b"{}").replace(b"localhost", host.encode())

    answer = await wire.exchange(edge, request)

    assert wire.status(answer) == 404
    assert b'"code":"unknown_url"' in answer
    assert len(edge.authorization.checked) == before


async def test_http_1_0(edge):
    """HTTP/1.0 is told what to use instead."""
    answer = await wire.exchange(edge, b"GET /healthz HTTP/1.0\r\n\r\n")

    assert wire.status(answer) == 426


async def test_grpc_has_no_route(edge):
    """A gRPC call gets gRPC's answer, without JSON in it."""
    async with edge.client(http2=True) as client:
        response = await client.post(
            "/inference.GRPCInferenceService/ModelConfig",
            content=b"\0\0\0\0\0",
            headers={"content-type": "application/grpc", "te": "trailers"},
        )

    assert response.headers["grpc-status"] == "12"  # UNIMPLEMENTED
    assert "{" not in response.headers.get("grpc-message", "")
    assert response.content == b""


async def test_trailers_of_a_client_are_dropped(edge):
    """Trailers can't carry in what headers can't."""
    script = edge.backend.script(answer(b"{}"))
    request = wire.request(
        headers=[f"x-test-script: {script}", "transfer-encoding: chunked"], length=False
    )
    trailers = b"x-tollhouse-admitted: forged\r\nx-tollhouse-cluster: authz\r\n"

    got = await wire.exchange(edge, request, b"2\r\n{}\r\n0\r\n" + trailers + b"\r\n")

    assert wire.status(got) == 200
    received = edge.backend.received[-1]
    assert received.body == b"{}"
    assert "x-tollhouse-admitted" not in received.headers


async def test_pipelined_requests_are_judged_each_by_itself(edge):
    """A second request on the same connection is not admitted with the first."""
    script = edge.backend.script(answer(b"{}"))
    headers = [f"x-test-script: {script}"]
    first = wire.request(body=b"{}", headers=headers).replace(
        b"connection: close\r\n", b""
    )
    second = wire.request(f"{_CHAT}?429", body=b"{}", headers=headers)
    before = len(edge.backend.received)

    answers = await wire.exchange(edge, first + second, answers=2)

    assert (answers.count(b"HTTP/1.1 200"), answers.count(b"HTTP/1.1 429")) == (1, 1)
    assert len(edge.backend.received) == before + 1


async def test_health_needs_no_key(edge):
    """The listener's own health asks nobody."""
    before = len(edge.authorization.checked)
    async with httpx.AsyncClient(base_url=edge.url) as client:
        response = await client.get("/healthz")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert len(edge.authorization.checked) == before


async def test_admin_shows_no_secret(edge):
    """Of Envoy's admin only what operating needs is open."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{edge.admin}") as client:
        statuses = {
            path: (await client.request(method, path)).status_code
            for method, path in [
                ("GET", "/ready"),
                ("GET", "/stats/prometheus"),
                ("POST", "/reopen_logs"),
                ("GET", "/config_dump"),
                ("GET", "/certs"),
                ("POST", "/quitquitquit"),
                ("POST", "/logging"),
            ]
        }

    assert list(statuses.values()) == [200, 200, 200, 403, 403, 403, 403]


@pytest_asyncio.fixture(loop_scope="session")
async def hurried_edge(tmp_path) -> AsyncIterator[Edge]:
    """An edge that waits half a second where the real one waits 10 and 30."""

    def change(tree: Any) -> None:
        (listener,) = tree["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["request_headers_timeout"] = "0.5s"
        manager["common_http_protocol_options"]["max_stream_duration"] = "0.5s"

    async with running_edge(tmp_path, find_port, change=change) as edge:
        yield edge


async def test_slow_senders(hurried_edge):
    """Half a request is a 408, be it the headers or the body."""
    whole = wire.request(body=b"x" * 100)
    for sent in (whole[:60], whole[:-50]):
        answer = await wire.exchange(hurried_edge, sent)

        assert wire.status(answer) == 408
        assert b'"code":"request_timeout"' in answer
    assert hurried_edge.authorization.checked == []


async def test_a_whole_request_that_is_not_admitted_in_time(hurried_edge):
    """A 504: its client has sent all, so the time was lost on this side."""
    async with hurried_edge.client() as client:
        response = await client.post(f"{_CHAT}?hang", content=b"{}")

    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timeout"
    assert 1 == await hurried_edge.counter(
        "http.edge.downstream_rq_max_duration_reached"
    )
    assert hurried_edge.backend.received == []


@pytest.mark.timed  # it has to be admitted within half a second
async def test_a_slow_answer_is_not_cut(hurried_edge):
    """What bounds the sending of a request does not bound its answer."""
    script = hurried_edge.backend.script([0.6, *answer(b"{}")])
    async with hurried_edge.client() as client:
        response = await client.post(
            _CHAT, content=b"{}", headers={"x-test-script": script}
        )

    assert response.status_code == 200
