"""A service process from outside: its socket, its signals, its exit status."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.process import Process, StartError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

PROGRAM = """
import asyncio, sys
import grpc
from tollhouse.adapters import logs
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.process import StartError, run

async def slow(request, context):
    await asyncio.sleep(0.6)
    return b"done"

def add(server):
    method = grpc.unary_unary_rpc_method_handler(slow)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Slow", {"Wait": method}),))

async def forever():
    try:
        await asyncio.Event().wait()
    finally:
        print('"flushed"', flush=True)

async def returns():
    await asyncio.sleep(0.2)

async def raises():
    await asyncio.sleep(0.2)
    raise ValueError("broken")

async def main(process):
    logs.configure("test")
    match sys.argv[1]:
        case "start-error":
            raise StartError("one.yaml: line 1\\none.yaml: line 2")
        case "bug":
            raise KeyError("bug")
        case "slow-start":
            print('"starting"', flush=True)
            await asyncio.sleep(30)
    tasks = {"returns": [forever, returns], "raises": [forever, raises]}
    background = tasks.get(sys.argv[1], [forever])
    await serve(process, add, sys.argv[2], service_names=["test.Slow"],
                grace_seconds=2, background=background)

run("test", main)
"""


class Child:
    """One process under test."""

    def __init__(self, mode: str, listen: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), mode, listen],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def end(self) -> tuple[int, str, str]:
        out, err = self.popen.communicate(timeout=60)
        return self.popen.returncode, out, err


@pytest.fixture
def child():
    children: list[Child] = []

    def start(mode: str, listen: str) -> Child:
        children.append(Child(mode, listen))
        return children[-1]

    yield start
    for it in children:
        it.popen.kill()
        it.popen.communicate()


@pytest.fixture
def listen(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s"


def health(listen: str, service: str = "") -> int:
    """Ask for health, waiting until the server is there."""
    with grpc.insecure_channel(listen) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        answer = stub.Check(request, timeout=60, wait_for_ready=True)
        return int(answer.status)


@pytest.mark.timed
def test_life(child, listen) -> None:
    """SIGTERM: health turns, the running call ends well, tasks flush, status 0."""
    it = child("run", listen)
    assert health(listen) == SERVING
    assert health(listen, "test.Slow") == SERVING
    assert Path(listen.removeprefix("unix:")).stat().st_mode & 0o777 == 0o660

    with grpc.insecure_channel(listen) as channel:
        wait: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/test.Slow/Wait"
        )
        call = wait.future(b"", timeout=60)
        time.sleep(0.2)
        it.popen.send_signal(signal.SIGTERM)
        assert call.result() == b"done"
    status, out, err = it.end()

    assert (status, err) == (0, "")
    assert '"flushed"' in out
    assert out.index("server.drained") < out.index('"flushed"')


def test_interrupt(child, listen) -> None:
    """Ctrl-C is the same as SIGTERM: no traceback."""
    it = child("run", listen)
    health(listen)
    it.popen.send_signal(signal.SIGINT)
    status, _, err = it.end()

    assert (status, err) == (0, "")


def test_stop_while_starting(child, listen) -> None:
    """A signal before the server listens ends the process at once."""
    it = child("slow-start", listen)
    assert '"starting"' in it.popen.stdout.readline()
    it.popen.send_signal(signal.SIGTERM)
    status, _, err = it.end()

    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("mode", "event"), [("returns", "task.ended"), ("raises", "task.failed")]
)
def test_dead_task(child, listen, mode, event) -> None:
    """A background task that ends takes the process with it, and says which."""
    status, out, _ = child(mode, listen).end()

    assert status == 1
    assert event in out
    assert f'"task":"{mode}"' in out


def test_start_error(child, listen) -> None:
    """A bad configuration: its lines on stderr, nothing else, status 2."""
    status, out, err = child("start-error", listen).end()

    assert status == 2
    assert err == "tollhouse test: one.yaml: line 1\ntollhouse test: one.yaml: line 2\n"
    assert out == ""


def test_bug(child, listen) -> None:
    """An unforeseen exception is a log line and status 1."""
    status, out, _ = child("bug", listen).end()

    assert status == 1
    assert "process.failed" in out


def test_stale_socket(child, listen) -> None:
    """A killed process's socket is taken over; kill -9 needs no manual step."""
    first = child("run", listen)
    health(listen)
    first.popen.kill()
    first.end()
    assert Path(listen.removeprefix("unix:")).exists()
    second = child("run", listen)

    assert health(listen) == SERVING
    second.popen.terminate()
    assert second.end()[0] == 0


def test_served_socket(child, listen) -> None:
    """A living process's socket is never taken."""
    child("run", listen)
    health(listen)
    status, _, err = child("run", listen).end()

    assert status == 2
    assert "another process serves it" in err
    assert health(listen) == SERVING


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("unix:relative", "must be absolute"),
        ("unix:/" + "x" * 120, "longer than 107 bytes"),
        ("unix:/no/such/folder/s", "is no folder"),
        ("unix:/etc/passwd", "is no socket"),
        ("nonsense", "use unix:/path or host:port"),
        ("127.0.0.1:99999", "use unix:/path or host:port"),
    ],
)
async def test_bad_address(listen, reason) -> None:
    """Each unusable address has its reason, on one line."""
    with pytest.raises(StartError, match=reason) as raised:
        await serve(Process("test"), lambda _: None, listen)
    assert "\n" not in str(raised.value)


@pytest.mark.timed
def test_health_while_draining(child, listen) -> None:
    """Health says NOT_SERVING to a watcher before the server goes."""
    it = child("run", listen)
    with grpc.insecure_channel(listen) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(
            health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True
        )
        assert next(watch).status == SERVING
        os.kill(it.popen.pid, signal.SIGTERM)

        assert next(watch).status == NOT_SERVING
        watch.cancel()
    assert it.end()[0] == 0
