"""Everywhere a running stack leaves traces, and a search through all of it."""

import base64
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx
import redis

from tests.e2e.running_stack import RunningStack
from tests.e2e.secrets.collector import Collector

_ENVOY_PATHS = ("/stats", "/stats/prometheus", "/ready")


def forms(secret: str) -> list[bytes]:
    """A secret as it is, and as encodings would hide it from a search."""
    plain = secret.encode()
    # Of any text that holds it, whatever stands before it: cut to whole groups.
    shifted = [base64.b64encode(b"x" * shift + plain)[4:-4] for shift in range(3)]
    return [
        plain,
        plain.hex().encode(),
        plain[::-1],
        json.dumps(secret)[1:-1].encode(),
        urllib.parse.quote(secret).encode(),
        *shifted,
    ]


def find(
    secrets: dict[str, str], stack: RunningStack, client: redis.Redis, told: Collector
) -> list[str]:
    """Say where each secret was found, and in what form."""
    return [
        f"{name} in {place} (form {number})"
        for place, content in everything(stack, client, told)
        for name, secret in secrets.items()
        for number, form in enumerate(forms(secret))
        if form in content
    ]


def everything(
    stack: RunningStack, client: redis.Redis, told: Collector
) -> Iterator[tuple[str, bytes]]:
    """Yield each place and what it holds."""
    yield "what `up` printed", stack.output.read_bytes()
    yield from _files(stack.state_dir)
    yield from _files((stack.state_dir / "run").resolve())
    yield from _names_of(client)
    yield from _processes(stack)
    for path in _ENVOY_PATHS:
        yield f"Envoy's {path}", httpx.get(stack.admin_url + path).content
    for kind, sent in told.sent:
        yield f"exported {kind}", sent


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Logs, the ledger, Redis' files, bills, sockets' neighbours, whatever is there."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield f"file {path}", path.read_bytes()


def _names_of(client: redis.Redis) -> Iterator[tuple[str, bytes]]:
    """All keys; what is and was in them is in the append-only file."""
    for key in client.scan_iter(count=1000):
        yield f"Redis {key!r}", key if isinstance(key, bytes) else key.encode()


def _processes(stack: RunningStack) -> Iterator[tuple[str, bytes]]:
    for process in stack.processes():
        for what in ("environ", "cmdline"):
            place = Path(f"/proc/{process.pid}/{what}")
            yield f"{what} of {process.name()}", place.read_bytes()
