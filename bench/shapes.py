"""The three shapes that are compared, each running on a port of its own."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil

from bench.up import syncer
from tests.stack_redis import open_redis, operator_of
from tollhouse.adapters.address import Address
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.cli.bootstrap import Edge, render_bootstrap

ROOT = Path(__file__).parents[1]
_ENVOY = Path(sys.executable).with_name("envoy")
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Shape:
    """One running shape."""

    name: str
    port: int
    key: str
    groups: Mapping[str, Sequence[psutil.Process]]
    """Its processes: `envoy`, `python`, `redis`; or each by its part."""
    redis: RedisAccess | None = None
    """The way to its Redis, as the operator; None: it has none."""
    prepare: Callable[[], object] = lambda: None
    """To be called before each load."""


@contextlib.contextmanager
def running_upstream(folder: Path, *, interval_ms: int, chunks: int) -> Iterator[int]:
    """Run the backend; yield its port."""
    port = free_port()
    command = (compiled("upstream", folder), str(port), str(interval_ms), str(chunks))
    with running_process(folder, "upstream", *command, place=port):
        yield port


@contextlib.contextmanager
def running_alone(folder: Path, upstream: int) -> Iterator[Shape]:
    """Envoy with a router and nothing else."""
    port = free_port()
    config = folder / "alone.yaml"
    text = (ROOT / "bench" / "alone.yaml").read_text("utf-8")
    text = text.replace("LISTEN", str(port)).replace("UPSTREAM", str(upstream))
    config.write_text(text, "utf-8")
    with running_process(folder, "alone", *_envoy(config), place=port) as envoy:
        yield Shape("Envoy alone", port, "none", {"envoy": [envoy]})


@contextlib.contextmanager
def running_bare(folder: Path, upstream: int) -> Iterator[Shape]:
    """Tollhouse's envoy.yaml and meter with services that decide nothing."""
    port, proof = free_port(), secrets.token_urlsafe(32)
    sockets = {name: folder / f"{name}.sock" for name in ("authz", "extproc")}
    edge = Edge(
        listen=Address(host="127.0.0.1", port=port),
        admin=Address(host="127.0.0.1", port=free_port()),
        clusters={
            "authz": [Address(path=str(sockets["authz"]))],
            "extproc": [Address(path=str(sockets["extproc"]))],
            "tiny-chat": [Address(host="127.0.0.1", port=upstream)],
        },
        proof=proof,
        ledger=folder / "ledger.jsonl",
        meter=ROOT / "envoy" / "meter.lua",
    )
    config = folder / "bare.json"
    config.write_text(render_bootstrap(ROOT / "envoy" / "envoy.yaml", edge), "utf-8")
    with contextlib.ExitStack() as stack:
        services = [
            stack.enter_context(
                running_process(
                    folder,
                    f"bare-{name}",
                    *(sys.executable, "-m", "bench.bare", name, str(path), proof),
                    place=path,
                )
            )
            for name, path in sockets.items()
        ]
        envoy = stack.enter_context(
            running_process(folder, "bare", *_envoy(config), place=port)
        )
        yield Shape("bare", port, "none", {"envoy": [envoy], "python": services})


@contextlib.contextmanager
def running_tollhouse(
    folder: Path,
    upstream: int,
    *,
    workers: int,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    by_part: bool = False,
) -> Iterator[list[Shape]]:
    """All of Tollhouse but Triton, through `tollhouse up`.

    As it is, and with an appendfsync of everysec, which are one set of processes.
    `environment` goes beside ours. `by_part`: its processes are told one by one.
    """
    ready = folder / "ready.json"
    command = (
        *(sys.executable, "-m", "bench.up"),
        *("--backend", f"http://127.0.0.1:{upstream}", "--listen", "127.0.0.1:0"),
        *("--config", str(config or ROOT / "bench" / "tollhouse.yaml")),
        *("--state-dir", str(folder / "state"), "--ready-file", str(ready)),
        *("--workers", str(workers)),
    )
    with running_process(
        folder, "tollhouse", *command, place=ready, environment=environment
    ):
        told = json.loads(ready.read_text("utf-8"))
        groups: dict[str, list[psutil.Process]] = {}
        for part, pid in told["pids"].items():
            group = part if by_part or part in {"envoy", "redis"} else "python"
            groups.setdefault(group, []).append(psutil.Process(pid))
        port = int(told["base_url"].removesuffix("/v1").rpartition(":")[2])
        operator = operator_of(folder / "state")
        shape = Shape("Tollhouse", port, told["api_key"], groups, operator)
        with open_redis(syncer(operator.url, folder)) as client:
            yield [
                replace(
                    shape,
                    name=name,
                    prepare=partial(client.config_set, "appendfsync", appendfsync),
                )
                for name, appendfsync in (
                    ("Tollhouse", "always"),
                    ("Tollhouse, everysec", "everysec"),
                )
            ]


def compiled(name: str, folder: Path) -> str:
    """Compile one of the C programs beside this file; return the binary's path."""
    binary = folder / name
    source = ROOT / "bench" / f"{name}.c"
    subprocess.run(["cc", "-O2", "-o", binary, source], check=True)  # noqa: S607
    return str(binary)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _envoy(config: Path) -> tuple[str, ...]:
    return (
        *(str(_ENVOY), "-c", str(config), "--concurrency", "1"),
        *("--disable-hot-restart", "-l", "warning"),
        *("--file-flush-interval-msec", "100"),
    )


@contextlib.contextmanager
def running_process(
    folder: Path,
    name: str,
    *command: str,
    place: int | Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[psutil.Process]:
    """Run a process that listens on a port or socket, or writes a file, once ready.

    `environment` goes beside ours.
    """
    path = folder / f"{name}.log"
    with path.open("wb") as log:
        process = psutil.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _is_ready(place):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start:\n{path.read_text('utf-8')}")
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(15)


def _is_ready(place: int | Path) -> bool:
    if isinstance(place, Path) and not place.is_socket():
        return place.exists()
    family = socket.AF_INET if isinstance(place, int) else socket.AF_UNIX
    address = ("127.0.0.1", place) if isinstance(place, int) else str(place)
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0
