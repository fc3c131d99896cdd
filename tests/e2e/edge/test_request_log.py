"""Envoy's log of all requests: the words of our own lines, and no secret."""

import asyncio
import json

import pytest

from tests.e2e.edge import services
from tests.e2e.edge.backend import CHUNKED_SSE, chunk

pytestmark = pytest.mark.asyncio(loop_scope="session")

_CHAT = "/v1/chat/completions"
_SECRET = "Zx9aB3dE5gH7jK9mN1pQ3sT5vW7y"


async def logged(edge, request_id):
    """The lines of a request; all there are, once it has one."""
    async with asyncio.timeout(30):
        while True:
            text = (edge.folder / "access.log").read_text()
            lines = [json.loads(line) for line in text.splitlines()]
            if found := [it for it in lines if it["request_id"] == request_id]:
                return found
            await asyncio.sleep(0.02)


async def test_an_exchange_has_one_line_with_all_ids(edge):
    """One that ran for some beats, which are the ledger's alone."""
    script = edge.backend.script([CHUNKED_SSE, chunk(b"data: {}\n\n"), 0.5, chunk(b"")])
    async with edge.client() as client:
        response = await client.post(
            f"{_CHAT}?key={_SECRET}",
            json={"prompt": _SECRET},
            headers={"x-test-script": script, "cookie": _SECRET},
        )

    id_ = response.headers["x-request-id"]
    (line,) = await logged(edge, id_)
    ledger = await edge.ended(id_, "request_id")
    assert line.pop("at").endswith("Z")
    assert line.pop("duration_ms") >= 500
    assert line.pop("bytes_in") > 0
    assert line.pop("bytes_out") > 0
    assert {
        "event": "request.ended",
        "level": "info",
        "service": "edge",
        "exchange_id": ledger["exchange"],
        "request_id": id_,
        "trace_id": ledger["trace_id"],
        "tenant": "acme",
        "key_id": "k1",
        "model": line["model"],  # the stand-in names none
        "method": "POST",
        "route": "api",
        "protocol": "HTTP/1.1",
        "client": "127.0.0.1",
        "code": 200,
        "grpc_status": None,
        "flags": "-",
        "details": "via_upstream",
        "refusal": None,
        "cluster": "tiny-chat",
        "upstream": f"127.0.0.1:{edge.backend.port}",
    } == line
    assert _SECRET not in (edge.folder / "access.log").read_text()


async def test_a_refusal_says_which_limit_it_was(edge):
    """Extproc's word as it is, in both logs."""
    async with edge.client() as client:
        response = await client.post(f"{_CHAT}?429", json={})

    id_ = response.headers["x-request-id"]
    (line,) = await logged(edge, id_)
    ledger = await edge.ended(id_, "request_id")
    assert line["details"] == ledger["details"] == services.WORD


async def test_who_was_not_let_in_is_in_it_too(edge):
    """Without an exchange, and without a word of the client's."""
    async with edge.client() as client:
        response = await client.post(
            f"{_CHAT}/{_SECRET}",
            json={},
            headers={
                "authorization": f"Bearer {_SECRET}",
                "user-agent": _SECRET,
            },
        )

    (line,) = await logged(edge, response.headers["x-request-id"])
    assert (response.status_code, None, None) == (
        line["code"],
        line["exchange_id"],
        line["tenant"],
    )
    assert "unknown" == line["route"]
    assert _SECRET not in (edge.folder / "access.log").read_text()
