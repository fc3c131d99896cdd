"""Measure Triton's gRPC through Tollhouse beside Envoy alone, and a chat beside both.

    python -m bench.triton [--rounds N] [--seconds S]

One stack and its simulated engine, which answers with one token at once; Envoy alone
leads to the same Triton and the same frontend. The two alternate. Figures are medians
over the rounds; the client is Python, alike on both sides. Prints Markdown.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx

from bench.shapes import free_port
from tests.e2e.running_stack import (
    RunningStack,
    running_stack,
    short_folder,
    wait_until,
    write_config,
)
from tests.e2e.triton.calls import Stream, ask
from tests.e2e.triton.conftest import ROOMY

_FOLDER = Path(__file__).parent
_ENVOY = Path(sys.executable).with_name("envoy")
_AT_ONCE = 16
_SHAPES = ("Envoy alone", "Tollhouse")


@dataclass(frozen=True)
class Way:
    """One way to the same backends."""

    address: str
    key: str


Request = Callable[[], Awaitable[object]]
Figures = dict[str, dict[str, list[tuple[float, float, float]]]]
"""By load, then by shape: p50 and p99 in ms, requests per second."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="bench.triton",
        description="Measure Triton's gRPC through Tollhouse beside Envoy alone.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="over both shapes")
    parser.add_argument("--seconds", type=float, default=3, help="of each load")
    arguments = parser.parse_args()
    with _ways() as ways:
        figures = asyncio.run(_measured(ways, arguments))
    _print(figures)
    return 0


@contextlib.contextmanager
def _ways() -> Iterator[dict[str, Way]]:
    engine = {"ttft_ms": 0.1, "itl_ms": 0.1, "prefill_ms_per_token": 0}
    with short_folder() as folder:
        plans = {"demo": {"key": ROOMY | {"concurrent": 1000}, "burst_seconds": 3600}}
        config = write_config(folder / "bench.yaml", plans=plans, engine=engine)
        with running_stack(folder, config=config) as stack:
            address = stack.base_url.removeprefix("http://").removesuffix("/v1")
            with _envoy_alone(folder, stack) as port:
                yield {
                    "Envoy alone": Way(f"127.0.0.1:{port}", stack.api_key),
                    "Tollhouse": Way(address, stack.api_key),
                }


@contextlib.contextmanager
def _envoy_alone(folder: Path, stack: RunningStack) -> Iterator[int]:
    run = stack.state_dir / "run"
    bootstrap = json.loads((run / "envoy.json").read_text())
    port, config = free_port(), folder / "alone.yaml"
    config.write_text(
        (_FOLDER / "triton.yaml")
        .read_text()
        .replace("LISTEN", str(port))
        .replace("TRITON", str(_triton_port(bootstrap)))
        .replace("FRONTEND", str(run / "frontend.sock"))
    )
    options = ("--disable-hot-restart", "-l", "error", "--concurrency", "1")
    process = subprocess.Popen([_ENVOY, "-c", config, *options])
    try:
        wait_until(lambda: _listens(port), 10)
        yield port
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _triton_port(bootstrap: Any) -> int:
    (cluster,) = (
        it
        for it in bootstrap["static_resources"]["clusters"]
        if it["name"] == "tiny-chat-grpc"
    )
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = endpoints["lb_endpoints"]
    return int(endpoint["endpoint"]["address"]["socket_address"]["port_value"])


async def _measured(ways: dict[str, Way], arguments: argparse.Namespace) -> Figures:
    figures: Figures = {}
    for number in range(arguments.rounds + 1):
        for load, (open_, clients) in _LOADS.items():
            for shape in _SHAPES:
                async with open_(ways[shape]) as request:
                    seconds = arguments.seconds if number else 1  # warm first
                    figure = await _run(request, clients, seconds)
                if number:
                    by_shape = figures.setdefault(load, {})
                    by_shape.setdefault(shape, []).append(figure)
    return figures


async def _run(
    request: Request, clients: int, seconds: float
) -> tuple[float, float, float]:
    clock = time.perf_counter
    until, took = clock() + seconds, list[float]()

    async def client() -> None:
        while (began := clock()) < until:
            await request()
            took.append(clock() - began)

    began = clock()
    await asyncio.gather(*(client() for _ in range(clients)))
    took.sort()
    p99 = took[min(len(took) - 1, len(took) * 99 // 100)]
    rate = len(took) / (clock() - began)
    return statistics.median(took) * 1000, p99 * 1000, rate


@contextlib.asynccontextmanager
async def _stream_each(way: Way) -> AsyncIterator[Request]:
    """A stream for each request, as most clients do."""
    async with grpc.aio.insecure_channel(way.address) as channel:

        async def request() -> None:
            stream = Stream(channel, way.key)
            await stream.send(ask(cap=1))
            await stream.finish()

        yield request


@contextlib.asynccontextmanager
async def _further(way: Way) -> AsyncIterator[Request]:
    """A further request on a stream that is open."""
    async with grpc.aio.insecure_channel(way.address) as channel:
        stream = Stream(channel, way.key)

        async def request() -> None:
            await stream.send(ask(cap=1))
            await stream.answer()

        yield request
        await stream.finish()


@contextlib.asynccontextmanager
async def _chat(way: Way) -> AsyncIterator[Request]:
    """OpenAI's way to the same engine, through the frontend."""
    headers = {"authorization": f"Bearer {way.key}"}
    body = {
        "model": "tiny-chat",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "Tell me of the sea."}],
    }
    url = f"http://{way.address}/v1/chat/completions"
    async with httpx.AsyncClient(headers=headers, timeout=30) as client:

        async def request() -> None:
            (await client.post(url, json=body)).raise_for_status()

        yield request


_LOADS: dict[str, tuple[Any, int]] = {
    "ModelStreamInfer, a stream each, 1 at a time": (_stream_each, 1),
    f"ModelStreamInfer, a stream each, {_AT_ONCE} at a time": (_stream_each, _AT_ONCE),
    "ModelStreamInfer, a further request": (_further, 1),
    "chat/completions, 1 at a time": (_chat, 1),
    f"chat/completions, {_AT_ONCE} at a time": (_chat, _AT_ONCE),
}


def _print(figures: Figures) -> None:
    print("| load | Envoy alone p50 / p99 ms, req/s | Tollhouse | added p50 ms |")
    print("|---|---|---|---|")
    for load, by_shape in figures.items():
        alone, ours = (
            [statistics.median(it[n] for it in by_shape[shape]) for n in range(3)]
            for shape in _SHAPES
        )
        cells = [
            f"{p50:.2f} / {p99:.2f}, {rate:.0f}" for p50, p99, rate in (alone, ours)
        ]
        print(f"| {load} | {' | '.join(cells)} | {ours[0] - alone[0]:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
