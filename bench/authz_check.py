"""What one check costs: authz alone, over its Unix socket, its key remembered.

    PYTHONPATH=.:services .venv/bin/python bench/authz_check.py [seconds] [concurrency]

Prints checks per second and the CPU time of the authz process for each, user and
system. The client shares the machine: the CPU figure is the steadier one.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import psutil
import uvloop

from tests.redis_process import running_redis
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

CHECK = "/envoy.service.auth.v3.Authorization/Check"
SECONDS, CONCURRENCY = 3.0, 32
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


def measure(authz: psutil.Process, target: str, message: bytes) -> str:
    """Load authz; one line of figures."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    concurrency = int(sys.argv[2]) if len(sys.argv) > 2 else CONCURRENCY  # noqa: PLR2004
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load(target, message, 0.5, concurrency))  # warm
        before, begin = authz.cpu_times(), time.monotonic()
        count = runner.run(load(target, message, seconds, concurrency))
        after, wall = authz.cpu_times(), time.monotonic() - begin
    cpu = after.user + after.system - before.user - before.system
    rss = authz.memory_info().rss / 2**20
    return (
        f"{count / wall:7.0f} checks/s {cpu / count * 1e6:6.1f} µs CPU each, "
        f"RSS {rss:.0f} MiB"
    )


def main() -> None:
    """Measure with the header we need only, and with all of them."""
    with tempfile.TemporaryDirectory(prefix="th-") as name, running_redis() as server:
        folder = Path(name)
        pepper = folder / "pepper"
        pepper.touch(mode=0o600)
        pepper.write_text("5a" * 32)
        ring = Keyring(server.url, Pepper.read(pepper))
        ring.create_tenant("acme", "demo")
        key, _ = ring.create_key("acme")
        ring.close()
        target = f"unix:{folder}/authz.sock"
        authz = subprocess.Popen(
            [sys.executable, "-m", "tollhouse.authz"],
            stdout=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "TOLLHOUSE_LISTEN": target,
                "TOLLHOUSE_REDIS_URL": server.url,
                "TOLLHOUSE_PEPPER_FILE": str(pepper),
            },
        )
        try:
            process = psutil.Process(authz.pid)
            for what, headers in (("authorization only", {}), ("all headers", HEADERS)):
                print(f"{what:<18}", measure(process, target, request(key, headers)))
        finally:
            authz.terminate()
            authz.wait()


if __name__ == "__main__":
    main()
