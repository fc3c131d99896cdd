"""A Redis behind TLS on loopback: its own, or a terminator before one without it."""

import asyncio
import contextlib
import select
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.certificates import Pair
from tests.redis_process import RedisServer, find_binary, running_redis

PATIENCE_SECONDS = 30.0


def speaks_tls() -> bool:
    """Whether the redis-server in use was built with TLS."""
    tried = subprocess.run(
        [find_binary("redis-server"), "--port", "0", "--tls-port", "-1"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "Bad directive" not in tried.stdout + tried.stderr


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def running_tls_redis(
    find_port: Callable[[], int],
    pair: Pair,
    *,
    clients_of: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[tuple[RedisServer, int]]:
    """Run a Redis and its TLS port; `clients_of`: who signs what clients must show."""
    port = find_port()
    if speaks_tls():
        authority = clients_of or pair.certificate
        mutual = "no" if clients_of is None else "yes"
        tls = (
            *("--tls-port", str(port), "--tls-auth-clients", mutual),
            *("--tls-cert-file", str(pair.certificate)),
            *("--tls-key-file", str(pair.key), "--tls-ca-cert-file", str(authority)),
        )
        with running_redis(options=(*tls, *options)) as server:
            yield server, port
    else:
        with (
            running_redis(options=options) as server,
            _terminator(port, server.socket_path, pair, clients_of),
        ):
            yield server, port


def take_anew(server: RedisServer, pair: Pair) -> None:
    """Have it show a certificate whose files were replaced, to who connects now."""
    if speaks_tls():
        server.ask("CONFIG", "SET", "tls-key-file", str(pair.key))
        server.ask("CONFIG", "SET", "tls-cert-file", str(pair.certificate))


@contextlib.contextmanager
def _terminator(
    port: int, behind: Path, pair: Pair, clients_of: Path | None
) -> Iterator[None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if clients_of is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients_of)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            context.load_cert_chain(pair.certificate, pair.key)  # as they are now
            # Not asyncio: it closes without the alert that says why.
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                socket.socket(socket.AF_UNIX) as redis,
            ):
                redis.connect(str(behind))
                _pass_on(client, redis)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _pass_on(client: ssl.SSLSocket, redis: socket.socket) -> None:
    """Pass all on, until one of them leaves."""
    while True:
        pending = [client] if client.pending() else []
        ready = pending or select.select([client, redis], [], [])[0]
        for one in ready:
            data = one.recv(65536)
            if not data:
                return
            (redis if one is client else client).sendall(data)
