"""A real redis-server on a private socket, and the lookup of real binaries."""

import contextlib
import dataclasses
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_START_SECONDS = 10.0


def find_binary(name: str) -> str:
    """Return the path of a program the tests start; fail, never skip, without it.

    PATH goes first, then this interpreter's environment, where `make setup` puts
    Envoy and a redis-server: the order of `tollhouse up`.
    """
    found = shutil.which(name) or shutil.which(
        name, path=str(Path(sys.executable).parent)
    )
    if found is None:
        pytest.fail(f"{name} is not installed: run `make setup`", pytrace=False)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class RedisServer:
    """A running redis-server."""

    process: subprocess.Popen[bytes]
    socket_path: Path
    log_path: Path

    @property
    def url(self) -> str:
        """What redis-py and our own client connect to."""
        return f"unix://{self.socket_path}"


@contextlib.contextmanager
def running_redis(
    folder: Path | None = None, *, appendonly: str = "no", appendfsync: str = "always"
) -> Iterator[RedisServer]:
    """Run a redis-server until the block ends; its files are in `folder`.

    Without a folder it has one of its own, short enough for a socket's 107 bytes,
    that goes with it. A second server on the same folder finds what the first one
    left, if that had `appendonly="yes"`.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="th-redis-"))
            )
        socket_path, log_path = folder / "redis.sock", folder / "redis.log"
        command = [
            find_binary("redis-server"),
            *("--port", "0", "--unixsocket", str(socket_path)),
            *("--dir", str(folder), "--save", ""),
            *("--appendonly", appendonly, "--appendfsync", appendfsync),
        ]
        log = stack.enter_context(log_path.open("ab"))
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        stack.callback(_stop, process)
        server = RedisServer(process, socket_path, log_path)
        _wait_for(server)
        yield server


def _wait_for(server: RedisServer) -> None:
    """Return when the server answers PING; fail with its log if it never does."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX) as connection,
        ):
            connection.settimeout(1.0)
            connection.connect(str(server.socket_path))
            connection.sendall(b"PING\r\n")
            if connection.recv(16).startswith(b"+PONG"):
                return
        time.sleep(0.01)
    pytest.fail(f"redis-server did not start:\n{server.log_path.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill the server: tests keep nothing, and one of them may have killed it."""
    process.kill()
    process.wait()
