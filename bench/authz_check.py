"""What one check costs: authz over its Unix socket, its key remembered.

    python -m bench.authz_check [--rounds N] [--seconds S] [--concurrency N]

By turns with a service of the same make that answers without looking (bench.bare): what
that costs is gRPC's in Python, and the machine's of the hour. Prints medians; the
client shares the machine, so the CPU figure is the steadier one.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import uvloop

from tests.redis_process import running_redis
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

CHECK = "/envoy.service.auth.v3.Authorization/Check"
# What Envoy sends besides unless told what to send, for the openai SDK.
HEADERS = {
    ":authority": "gateway.example",
    ":method": "POST",
    ":path": "/v1/chat/completions",
    ":scheme": "http",
    "accept": "application/json",
    "content-type": "application/json",
    "user-agent": "OpenAI/Python 3.52.0",
    "x-forwarded-proto": "http",
    "x-request-id": "4b0f0e43-1f0e-4d6e-8d7c-0a6c0f8ad0aa",
    "x-stainless-lang": "python",
    "x-stainless-os": "Linux",
    "x-stainless-retry-count": "0",
}


def request(key: str, headers: dict[str, str]) -> bytes:
    """One check as Envoy sends it."""
    message = ext_authz.CheckRequest()
    http = message.attributes.request.http
    http.method, http.path = "POST", "/v1/chat/completions"
    for name, value in {**headers, "authorization": f"Bearer {key}"}.items():
        http.headers[name] = value
    return message.SerializeToString()


async def load(target: str, message: bytes, seconds: float, concurrency: int) -> int:
    """Ask without a pause; the number of answers."""
    count = 0
    async with grpc.aio.insecure_channel(target) as channel:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        ask = channel.unary_unary(CHECK)
        first = ext_authz.CheckResponse.FromString(
            await ask(message, wait_for_ready=True)
        )
        if first.status.code:
            raise SystemExit(f"refused: {first}")
        deadline = time.monotonic() + seconds

        async def one() -> None:
            nonlocal count
            while time.monotonic() < deadline:
                await ask(message)
                count += 1

        await asyncio.gather(*(one() for _ in range(concurrency)))
    return count


@dataclass(frozen=True)
class Cost:
    """Of checks by one service."""

    per_second: float
    cpu_us: float


def measure(
    service: psutil.Process, target: str, message: bytes, arguments: argparse.Namespace
) -> Cost:
    """Load a service that is warm."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load(target, message, 0.3, arguments.concurrency))
        before, begin = service.cpu_times(), time.monotonic()
        count = runner.run(
            load(target, message, arguments.seconds, arguments.concurrency)
        )
        after, wall = service.cpu_times(), time.monotonic() - begin
    cpu = after.user + after.system - before.user - before.system
    return Cost(count / wall, cpu / count * 1e6)


@contextlib.contextmanager
def running(target: str, *command: str, **environment: str) -> Iterator[psutil.Process]:
    """Run a service of ours at a Unix socket."""
    service = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TOLLHOUSE_LISTEN": target,
            **environment,
        },
    )
    try:
        yield psutil.Process(service.pid)
    finally:
        service.terminate()
        service.wait()


def main() -> None:
    """Measure with the header we need only, with all of them, and without a look."""
    parser = argparse.ArgumentParser(
        prog="bench.authz_check",
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each, by turns")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--concurrency", type=int, default=32, help="checks at a time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="th-") as name, running_redis() as server:
        pepper = Path(name, "pepper")
        pepper.touch(mode=0o600)
        pepper.write_text("5a" * 32)
        ring = Keyring(server.url, Pepper.read(pepper))
        ring.create_tenant("acme", "demo")
        key, _ = ring.create_key("acme")
        ring.close()
        target, bare_target = f"unix:{name}/authz.sock", f"unix:{name}/bare.sock"
        plain, full = request(key, {}), request(key, HEADERS)
        with (
            running(
                target,
                "tollhouse.authz",
                TOLLHOUSE_REDIS_URL=server.url,
                TOLLHOUSE_PEPPER_FILE=str(pepper),
            ) as authz,
            running(
                bare_target, "bench.bare", "authz", f"{name}/bare.sock", "-"
            ) as bare,
        ):
            asked = {
                "bare: answers without a look": (bare, bare_target, plain),
                "authz, authorization only": (authz, target, plain),
                "authz, all headers": (authz, target, full),
            }
            rounds = [
                {what: measure(*it, arguments) for what, it in asked.items()}
                for _ in range(arguments.rounds)
            ]
    _print(rounds)


def _print(rounds: list[dict[str, Cost]]) -> None:
    first, *_ = rounds[0]
    print("| | checks a second | CPU µs a check | of bare |\n|---|---|---|---|")
    for what in rounds[0]:
        per_second = statistics.median(it[what].per_second for it in rounds)
        cpu = statistics.median(it[what].cpu_us for it in rounds)
        ratio = statistics.median(it[what].cpu_us / it[first].cpu_us for it in rounds)
        print(f"| {what} | {per_second:.0f} | {cpu:.0f} | {ratio:.2f} × |")


if __name__ == "__main__":
    main()
