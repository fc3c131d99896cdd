"""A real tritonserver with the simulated engine, and frontends in front of it."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tollhouse.cli import engine

FAST = engine.EngineParameters(
    ttft_ms=10,
    prefill_ms_per_token=0,
    itl_ms=4,
    max_num_seqs=16,
    natural_end=False,
    faults=True,
)
NARROW = dataclasses.replace(FAST, ttft_ms=6000, itl_ms=20, max_num_seqs=1)
START_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Deployment:
    """One model of a Triton server."""

    contract: str = "ensemble"
    parameters: engine.EngineParameters = FAST


@dataclasses.dataclass
class Triton:
    """A running tritonserver."""

    folder: Path
    ports: engine.EnginePorts
    models: Mapping[str, Deployment]
    process: "subprocess.Popen[bytes]"

    @property
    def truth(self) -> Path:
        """The truth log of all its models."""
        return self.folder / "truth.jsonl"

    def truths(self, exchange: str, *, count: int = 1) -> list[dict[str, Any]]:
        """Wait for the engine's lines about one exchange, in order of id."""
        deadline = time.monotonic() + 30
        while True:
            lines = [json.loads(line) for line in self.truth.read_text().splitlines()]
            found = [line for line in lines if line["id"].split("#")[0] == exchange]
            if len(found) >= count:
                return sorted(found, key=lambda line: str(line["id"]))
            assert time.monotonic() < deadline, f"{exchange}: {found}"
            time.sleep(0.01)


@dataclasses.dataclass
class Frontend:
    """A running frontend."""

    url: str
    socket: str | None
    log: Path
    process: "subprocess.Popen[bytes]"

    def client(self) -> httpx.AsyncClient:
        """Return a client whose connections nobody else uses."""
        transport = httpx.AsyncHTTPTransport(uds=self.socket)
        return httpx.AsyncClient(transport=transport, base_url=self.url, timeout=30)


@contextmanager
def running_triton(
    folder: Path, ports: engine.EnginePorts, models: Mapping[str, Deployment]
) -> Iterator[Triton]:
    """Start tritonserver with these models; kill it at the end."""
    repository = folder / "models"
    for name, deployment in models.items():
        engine.render_repository(
            repository,
            truth_log=folder / "truth.jsonl",
            parameters=deployment.parameters,
            model=name,
            contract=deployment.contract,
        )
    prefix = engine.shm_prefix(folder)
    command = engine.server_process(engine.find_tools(), repository, ports, prefix)
    log = folder / "triton.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command.command,
            env=command.environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not all(_is_loaded(ports, name) for name in models):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
        yield Triton(folder, ports, models, process)
    finally:
        # The whole group: a stub may outlive its server by a moment.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        engine.remove_stale_shm(prefix)


@contextmanager
def running_frontend(
    folder: Path, triton: Triton, listen: str, **settings: float
) -> Iterator[Frontend]:
    """Start a frontend with every model of this Triton; kill it at the end."""
    models = {
        name: {
            "triton_model": name,
            "contract": deployment.contract,
            "release_dir": str(engine.release_dir()),
            "context": deployment.parameters.max_seq_len,
            "tool_parser": "hermes",
        }
        for name, deployment in triton.models.items()
    }
    file = folder / "models.yaml"
    file.write_text(json.dumps({"models": models}))
    environment = dict(os.environ) | {
        "TOLLHOUSE_LISTEN": listen,
        "TOLLHOUSE_MODELS_FILE": str(file),
        "TOLLHOUSE_TRITON_TARGET": triton.ports.target,
        **{f"TOLLHOUSE_{key.upper()}": str(value) for key, value in settings.items()},
    }
    log = folder / "frontend.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tollhouse.frontend"],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    path = listen.removeprefix("unix:") if listen.startswith("unix:") else None
    url = "http://frontend" if path else f"http://{listen}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _accepts(listen):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
        transport = httpx.HTTPTransport(uds=path)
        with httpx.Client(transport=transport, base_url=url, timeout=30) as client:
            while client.get("/healthz").status_code != httpx.codes.OK:
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.05)
        yield Frontend(url, path, log, process)
    finally:
        process.kill()
        process.wait()


def _is_loaded(ports: engine.EnginePorts, model: str) -> bool:
    url = f"http://127.0.0.1:{ports.http}/v2/models/{model}/ready"
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _accepts(listen: str) -> bool:
    """Whether somebody listens there. httpx leaks the socket of a failed attempt."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_UNIX if host == "unix" else socket.AF_INET
    address = port if host == "unix" else (host, int(port))
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0
