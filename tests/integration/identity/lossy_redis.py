"""A way to Redis on which answers get lost."""

import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path


class LossyRedis(socketserver.ThreadingUnixStreamServer):
    """Passes all on, but for the answers to as many EXECs as are to be lost."""

    daemon_threads = True
    to_lose = 0

    def __init__(self, path: Path, redis_path: Path) -> None:
        self.url = f"unix://{path}"
        self.redis_path = redis_path
        super().__init__(str(path), _Connection)


class _Connection(socketserver.BaseRequestHandler):
    server: LossyRedis

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as redis:
            redis.connect(str(self.server.redis_path))
            while True:
                ready, _, _ = select.select([self.request, redis], [], [])
                for one in ready:
                    data = one.recv(65_536)
                    if not data:
                        return
                    (redis if one is self.request else self.request).sendall(data)
                    if b"EXEC" in data and self.server.to_lose:
                        self.server.to_lose -= 1
                        _await_applied(redis)
                        return


def _await_applied(redis: socket.socket) -> None:
    answer = b""
    while b"\r\n*" not in answer:  # of EXEC, behind those of what was queued
        answer += redis.recv(65_536)


@contextlib.contextmanager
def running_lossy(path: Path, redis_path: Path) -> Iterator[LossyRedis]:
    """Listen at a path until the block ends."""
    with LossyRedis(path, redis_path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
