"""Real redis-servers, alone or as a cluster, and the lookup of real binaries."""

import contextlib
import dataclasses
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from tollhouse.adapters.redis.cluster import SLOTS

_START_SECONDS = 60.0
_CLUSTER_SECONDS = 60.0
_ENDS = [SLOTS * third // 3 for third in range(4)]
"""Where the slots of one master end and the next one's begin."""


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
    port: int = 0
    """On 127.0.0.1; 0: none."""

    @property
    def url(self) -> str:
        """What redis-py and our own client connect to."""
        return f"unix://{self.socket_path}"

    def ask(self, *command: str | int) -> Any:
        """Run one command on this very server, as an operator would."""
        with redis.Redis.from_url(self.url) as client:
            # Bare: redis-py would read some replies and retry some errors.
            client.response_callbacks.clear()
            return client.execute_command(*command)


@contextlib.contextmanager
def running_redis(
    folder: Path | None = None,
    *,
    port: int = 0,
    appendonly: str = "no",
    appendfsync: str = "always",
    options: Sequence[str] = (),
    configuration: Path | None = None,
) -> Iterator[RedisServer]:
    """Run a redis-server until the block ends; its files are in `folder`.

    Without a folder it has one of its own, short enough for a socket's 107 bytes,
    that goes with it. A second server on the same folder finds what the first one
    left, if that had `appendonly="yes"`. It listens on 127.0.0.1 too if it has a
    `port`. What is said here goes before what a `configuration` file says.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="th-redis-"))
            )
        socket_path, log_path = folder / "redis.sock", folder / "redis.log"
        command = [
            find_binary("redis-server"),
            *([] if configuration is None else [str(configuration)]),
            *("--port", str(port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(socket_path)),
            *("--dir", str(folder), "--save", ""),
            *("--appendonly", appendonly, "--appendfsync", appendfsync),
            *options,
        ]
        log = stack.enter_context(log_path.open("ab"))
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        stack.callback(_stop, process)
        server = RedisServer(process, socket_path, log_path, port)
        _wait_for(server)
        yield server


def secret_file(folder: Path, content: str, name: str = "password") -> Path:
    """Write a file that is not open to everybody, as our processes demand."""
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(f"{content}\n")
    return path


@dataclasses.dataclass(frozen=True, slots=True)
class RedisCluster:
    """Three masters, each with a third of the slots; replicas, and idle spares."""

    masters: list[RedisServer]
    replicas: list[RedisServer]
    spares: list[RedisServer]

    @property
    def url(self) -> str:
        """What our own client connects to."""
        places = ",".join(f"127.0.0.1:{node.port}" for node in self.masters)
        return f"redis+cluster://{places}"

    @property
    def nodes(self) -> list[RedisServer]:
        """All of them, masters first."""
        return [*self.masters, *self.replicas, *self.spares]

    def master_of(self, slot: int) -> RedisServer:
        """Who was given a slot at first."""
        return next(
            node
            for node, end in zip(self.masters, _ENDS[1:], strict=True)
            if slot < end
        )


@contextlib.contextmanager
def running_cluster(*, replicas: int = 0, spares: int = 0) -> Iterator[RedisCluster]:
    """Run a Redis Cluster on loopback; replicas are of its first master."""
    with contextlib.ExitStack() as stack:
        options = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "5000"),
            # The slots of a dead master must not take the others' with them.
            *("--cluster-require-full-coverage", "no"),
        )
        nodes = [
            stack.enter_context(running_redis(port=_cluster_port(), options=options))
            for _ in range(3 + replicas + spares)
        ]
        cluster = RedisCluster(
            nodes[:3], nodes[3 : 3 + replicas], nodes[3 + replicas :]
        )
        _form(cluster)
        yield cluster


def _form(cluster: RedisCluster) -> None:
    """Share the slots out, introduce the nodes, wait until all know all."""
    for at, node in enumerate(cluster.nodes):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        if node in cluster.masters:
            node.ask("CLUSTER", "ADDSLOTS", *range(_ENDS[at], _ENDS[at + 1]))
        if at:
            cluster.masters[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
    _wait_until(lambda: all(_knows(it, cluster) for it in cluster.nodes))
    for node in cluster.replicas:
        first = cluster.masters[0].ask("CLUSTER", "MYID")
        node.ask("CLUSTER", "REPLICATE", first.decode())
    up = b"master_link_status:up"
    _wait_until(lambda: all(up in _info(it, "replication") for it in cluster.replicas))


def _knows(node: RedisServer, cluster: RedisCluster) -> bool:
    state: bytes = node.ask("CLUSTER", "INFO")
    known = f"cluster_known_nodes:{len(cluster.nodes)}\r\n".encode()
    # Slots apart: without full coverage the state is ok where some are not known yet.
    slots = f"cluster_slots_ok:{SLOTS}\r\n".encode()
    return b"cluster_state:ok" in state and known in state and slots in state


def _info(node: RedisServer, section: str) -> bytes:
    text: bytes = node.ask("INFO", section)
    return text


def _wait_until(is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _CLUSTER_SECONDS
    while not is_ready():
        if time.monotonic() > deadline:
            pytest.fail("the Redis Cluster did not form")
        time.sleep(0.02)


def _cluster_port() -> int:
    """A port nobody listens on, nor on the one 10,000 above: the nodes' own."""
    while True:
        # Below those the kernel gives to outgoing connections.
        port = random.randrange(11_000, 22_000)
        with socket.socket() as probe, socket.socket() as second:
            try:
                probe.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def _wait_for(server: RedisServer) -> None:
    """Return when the server answers PING; fail with its log if it never does."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX) as connection,
        ):
            connection.settimeout(5.0)
            connection.connect(str(server.socket_path))
            connection.sendall(b"PING\r\n")
            # One with users wants to know who asks, and answers so much.
            if connection.recv(16).startswith((b"+PONG", b"-NOAUTH")):
                return
        time.sleep(0.01)
    pytest.fail(f"redis-server did not start:\n{server.log_path.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill the server: tests keep nothing, and one of them may have killed it."""
    process.kill()
    process.wait()
