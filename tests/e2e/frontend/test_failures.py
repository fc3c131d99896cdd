"""Failures of the engine: the true status before the first token, visible after it."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.frontend.calls import CHAT, chat, new_exchange, stream
from tests.e2e.frontend.stack import (
    FAST,
    Deployment,
    Frontend,
    Triton,
    running_frontend,
    running_triton,
)
from tollhouse.cli.engine import EnginePorts
from tollhouse.core import sse


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("why", "status", "code"),
    [
        ("length", 400, "context_length_exceeded"),
        ("queue", 503, "overloaded"),
        ("unhealthy", 503, "service_unavailable"),
        ("internal", 502, "upstream_error"),
    ],
)
async def test_refusals_of_the_engine_get_their_status(
    client: httpx.AsyncClient, why: str, status: int, code: str, *, streaming: bool
):
    """Triton's words become OpenAI's error; they stay inside themselves."""
    body = chat(f"sim_fault=reject:{why}", stream=streaming, max_tokens=3)
    answer = await client.post(CHAT, json=body)
    error = answer.json()["error"]

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert answer.headers.get("retry-after") == ("1" if why == "queue" else None)
    for word in ("simulated", "stub", "4096"):
        assert word not in answer.text.lower()


@pytest.mark.parametrize("fault", ["midstream:3", "hang:3"])
async def test_stream_that_breaks_ends_visibly(client: httpx.AsyncClient, fault: str):
    """An error event, no [DONE], and a connection that ends before its body does."""
    events = await _broken_stream(client, chat(f"sim_fault={fault}", max_tokens=50))
    error = json.loads(events[-1].data)["error"]

    assert error["code"] == ("timeout" if fault == "hang:3" else "upstream_error")
    assert events[-1].comments[0].split(",")[1] == "3"
    assert len(events) == 5  # role, three tokens, the error


async def test_silent_engine_without_a_token_is_a_timeout(triton: Triton, tmp_path):
    """Before the first token there is still a status to give."""
    with running_frontend(
        tmp_path, triton, f"unix:{tmp_path / 's'}", first_token_timeout_seconds=0.5
    ) as frontend:
        async with frontend.client() as client:
            body = chat("sim_fault=hang:0", max_tokens=5)
            answer = await client.post(CHAT, json=body)

    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "timeout"


async def test_one_broken_choice_breaks_the_stream(client: httpx.AsyncClient):
    """n=2: a failure of any choice is a failure of the exchange."""
    events = await _broken_stream(
        client, chat("sim_fault=midstream:2", n=2, max_tokens=50)
    )

    assert json.loads(events[-1].data)["error"]["code"] == "upstream_error"


async def test_unknown_model_is_not_found(client: httpx.AsyncClient):
    """A model nobody configured here."""
    answer = await client.post(CHAT, json=chat(model="nobody"))

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.fixture
def fragile(
    tmp_path: Path, engine_ports: Callable[[], EnginePorts]
) -> Callable[[], object]:
    """Return a function that starts a tritonserver a test may kill."""
    ports = engine_ports()
    parameters = FAST
    return lambda: running_triton(
        tmp_path, ports, {"tiny-chat": Deployment(parameters=parameters)}
    )


@pytest.mark.timed
async def test_killed_triton(tmp_path: Path, fragile):
    """Its streams end visibly; then 503, not ready, and back within two seconds."""
    (tmp_path / "fe").mkdir()
    with fragile() as triton:
        listen = f"unix:{tmp_path / 's'}"
        with running_frontend(tmp_path / "fe", triton, listen) as frontend:
            async with frontend.client() as client:
                reading = asyncio.create_task(
                    _broken_stream(client, chat(max_tokens=2000))
                )
                await asyncio.sleep(0.5)
                os.killpg(triton.process.pid, signal.SIGKILL)
                events = await asyncio.wait_for(reading, 30)
                away = await client.post(CHAT, json=chat(max_tokens=2))
                health = await client.get("/healthz")
                with fragile():
                    back = await _eventually_ok(client)

    assert len(events) > 10
    assert json.loads(events[-1].data)["error"]["code"] == "service_unavailable"
    assert away.status_code == 503
    assert away.json()["error"]["code"] == "service_unavailable"
    assert health.status_code == 503
    assert back < 2


async def test_crashed_model_process(tmp_path: Path, fragile):
    """A dead stub leaves its streams hanging; the timeout ends them visibly."""
    (tmp_path / "fe").mkdir()
    with fragile() as triton:
        listen = f"unix:{tmp_path / 's'}"
        with running_frontend(
            tmp_path / "fe", triton, listen, inter_token_timeout_seconds=0.7
        ) as frontend:
            async with frontend.client() as client:
                body = chat("sim_fault=crash:3", max_tokens=50)
                events = await _broken_stream(client, body)
                after = await client.post(CHAT, json=chat(max_tokens=2))

    assert json.loads(events[-1].data)["error"]["type"] == "server_error"
    assert after.status_code == 503
    assert "stub" not in after.text.lower()


async def test_killed_server_takes_its_model_along(tmp_path: Path, fragile):
    """A busy stub would outlive its server for ever, blocked in Triton's own code."""
    (tmp_path / "fe").mkdir()
    with fragile() as triton:
        (stub,) = psutil.Process(triton.process.pid).children()
        with running_frontend(tmp_path / "fe", triton, f"unix:{tmp_path / 's'}") as it:
            async with it.client() as client:
                begun = asyncio.Queue[None]()
                readings = [
                    asyncio.create_task(
                        _broken_stream(client, chat(max_tokens=2000), begun)
                    )
                    for _ in range(8)
                ]
                for _ in readings:
                    await asyncio.wait_for(begun.get(), 30)
                triton.process.kill()
                await asyncio.gather(*readings)
        gone, _ = await asyncio.to_thread(psutil.wait_procs, [stub], 30)

    assert gone == [stub]


@pytest.mark.timed
async def test_drain_finishes_streams(tmp_path: Path, triton: Triton):
    """After SIGTERM a running stream gets its end, then the process exits with 0."""
    listen = f"unix:{tmp_path / 's'}"
    with running_frontend(tmp_path, triton, listen) as frontend:
        async with frontend.client() as client:
            exchange = new_exchange()
            reading = asyncio.create_task(
                stream(
                    client,
                    chat(max_tokens=200),
                    headers={"x-tollhouse-exchange": exchange},
                )
            )
            await asyncio.sleep(0.3)
            frontend.process.send_signal(signal.SIGTERM)
            answer = await reading
        status = await asyncio.to_thread(frontend.process.wait, 30)

    assert status == 0
    assert answer.usage["completion_tokens"] == 200
    assert not (tmp_path / "s").exists()


async def test_log_has_no_text(frontend: Frontend, client: httpx.AsyncClient):
    """One line per exchange with its counts; neither prompt nor completion."""
    answer = await stream(client, chat("an unmistakable prompt", max_tokens=30))
    deadline = time.monotonic() + 30
    while '"output_tokens":30' not in (log := frontend.log.read_text()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)

    assert "unmistakable" not in log
    assert answer.text()[:20] not in log


async def _broken_stream(
    client: httpx.AsyncClient,
    body: dict[str, Any],
    begun: asyncio.Queue[None] | None = None,
) -> list[sse.Event]:
    """Read a stream that must not end well; return its events.

    `begun` gets an item when the answer begins.
    """
    parser = sse.Parser()
    events: list[sse.Event] = []

    async def read() -> None:
        async with client.stream("POST", CHAT, json=body | {"stream": True}) as answer:
            assert answer.status_code == 200
            if begun is not None:
                begun.put_nowait(None)
            async for chunk in answer.aiter_raw():
                events.extend(parser.feed(chunk))

    with pytest.raises(httpx.RemoteProtocolError):
        await read()
    assert "[DONE]" not in [event.data for event in events]
    return events


async def _eventually_ok(client: httpx.AsyncClient) -> float:
    """Return how many seconds it took until a request succeeded."""
    started = time.monotonic()
    while (await client.post(CHAT, json=chat(max_tokens=2))).status_code != 200:
        assert time.monotonic() - started < 30
        await asyncio.sleep(0.05)
    return time.monotonic() - started
