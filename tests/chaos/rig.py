"""What a run runs on: an engine, a provider and a stack, each a real process."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, TextIO

import grpc.aio
import psutil
import yaml

from bench.scripted import Generated, running_scripted
from tests.chaos import redis_log
from tests.chaos.ledgers import TYPES, Line, of_provider
from tests.stripe_stand_in.process import StandInProcess
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.customers import Customers
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.usage_pb import to_pb_record
from tollhouse.cli.redis_users import OPERATOR
from tollhouse.cli.state import StateDirectory
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc

ROOT = Path(__file__).parents[2]
TENANTS = ("acme", "birch", "cedar", "delta", "ember", "fjord")
MODELS = ("small", "large")
PLANS = ("degrade", "deny")
"""By what happens without Redis; tenants take turns."""
READY_SECONDS = 90.0
STOP_SECONDS = 12.0
HANG_SECONDS = 3.0
"""Longer than an aggregator waits for an answer."""

PATHS = os.pathsep.join((str(ROOT), str(ROOT / "services")))
_BATCH = 500
_ROOM = {
    "requests_per_minute": 100_000_000,
    "units_per_minute": 100_000_000_000,
    "concurrent": 100_000,
}


class RigError(Exception):
    """It can't be run at all; the text says why."""


def write_config(path: Path) -> Path:
    """Write a tollhouse.yaml with models that cost and limits nobody reaches."""
    model = {
        "cluster": "tiny-chat",
        "provider": "openai",
        "operations": ["chat"],
        "context": 1_000_000,
        "default_output_tokens": 256,
        "max_output_tokens": 4096,
        "prices": {"input": 1, "cached_input": 0.5, "output": 4},
    }
    plan = {"key": _ROOM, "tenant_model": _ROOM, "burst_seconds": 60}
    plans = {it: {**plan, "redis_down": it} for it in PLANS}
    content = {"models": dict.fromkeys(MODELS, model), "plans": plans}
    # Without anchors, which the configuration's reader does not know.
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))), "utf-8")
    return path


@contextlib.asynccontextmanager
async def running_engine(folder: Path) -> AsyncIterator[str]:
    """Run the scripted backend, which writes engine.jsonl; gives its URL."""
    with socket.socket() as listening, (folder / "engine.jsonl").open("w") as file:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]

        def told(done: Generated) -> None:
            _write_line(
                file,
                exchange=done.exchange,
                tenant=done.script["tenant"],
                model=done.model,
                input=done.script["input"],
                cached=done.script["cached"],
                output=done.output,
                is_whole=done.is_whole,
                ended_at=time.time(),
            )

        async with running_scripted(listening, told):
            yield f"http://127.0.0.1:{port}"


class Stripe:
    """The provider: the stand-in as a process, with faults until told otherwise."""

    def __init__(self, folder: Path, *, seed: int, faults: float, ahead: float) -> None:
        self.key_file = folder / "stripe.key"
        self.key_file.write_text("rk_test_standin\n")
        self.key_file.chmod(0o600)
        settings = {"hang_seconds": HANG_SECONDS}
        self._process = StandInProcess(folder, seed=seed, settings=settings)
        self._process.start()
        # Events of the hour that is now come an hour early, as the aggregators' clock.
        self._process.advance(ahead)
        for model in MODELS:
            for type_ in TYPES:
                self._process.add_meter(f"tollhouse.{model}.{type_}")
        for tenant in TENANTS:
            self._process.add_customer(customer(tenant))
        self._process.change(fault_share=faults)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._process.url

    def outage(self, seconds: float | None) -> None:
        """Reset every connection until told, or so long; 0: no more."""
        self._process.outage(seconds)

    def fail_after_all(self) -> None:
        """Take every call and answer 500."""
        self._process.change(fault_share=1.0, fault_weights={"error_after": 1.0})

    def calm(self) -> None:
        """No faults any more."""
        self._process.outage(0)
        self._process.change(fault_share=0.0)

    def totals(self) -> dict[Line, int]:
        """What it took."""
        return of_provider(self._process.totals(), {customer(it): it for it in TENANTS})

    def counts(self) -> Mapping[str, int]:
        """Calls by outcome."""
        counts: Mapping[str, int] = self._process.dump()["counts"]
        return counts

    def stop(self) -> None:
        """End it."""
        self._process.kill()


def customer(tenant: str) -> str:
    """The provider's id of a tenant."""
    return f"cus_{tenant}"


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A stack that is ready."""

    process: subprocess.Popen[bytes]
    ready_file: Path
    state_dir: Path
    base_url: str
    redis_url: str

    def redis_access(self, user: str = OPERATOR) -> RedisAccess:
        """The way to its Redis, as one of the users."""
        users = StateDirectory(self.state_dir).redis_users
        return users.access(self.redis_url, user)

    def pid(self, part: str) -> int | None:
        """Process id of a part that runs; None while it is down."""
        pid: int | None = json.loads(self.ready_file.read_text())["pids"].get(part)
        # The file is right once the part is ready again; until then the old pid may
        # be nobody's, or another's.
        if pid is None or not psutil.pid_exists(pid):
            return None
        try:
            is_ours = psutil.Process(pid).ppid() == self.process.pid
        except psutil.NoSuchProcess:
            return None
        return pid if is_ours else None


def send_signal(pid: int, number: int) -> bool:
    """Send a signal; False if nobody has that pid any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def running_stack(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Started]:
    """Run tests.chaos.stack until the block ends. Raises RigError with its words."""
    ready_file, output = folder / "ready.json", folder / "stack.log"
    command = (
        *(sys.executable, "-m", "tests.chaos.stack"),
        *("--state-dir", str(folder / "state"), "--ready-file", str(ready_file)),
        *("--config", str(write_config(folder / "tollhouse.yaml"))),
        *options,
    )
    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": PATHS, **(environment or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        ready = _await_ready(process, ready_file, output)
        urls = (ready["base_url"], ready["redis_url"])
        yield Started(process, ready_file, folder / "state", *urls)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(
    process: subprocess.Popen[bytes], ready_file: Path, output: Path
) -> dict[str, Any]:
    deadline = time.monotonic() + READY_SECONDS
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RigError(f"the stack is not ready:\n{output.read_text()[-3000:]}")
        time.sleep(0.05)
    ready: dict[str, Any] = json.loads(ready_file.read_text())
    return ready


async def admit_tenants(stack: Started) -> dict[str, str]:
    """Make the tenants with keys and customers; their keys by name."""
    pepper = Pepper.read(stack.state_dir / "pepper")
    keys = {}
    with contextlib.closing(Keyring(stack.redis_access(), pepper)) as keyring:
        for tenant, plan in zip(TENANTS, cycle(PLANS), strict=False):
            keyring.create_tenant(tenant, plan)
            keys[tenant], _ = keyring.create_key(tenant)
    client = await Redis.connect(stack.redis_access(), budget_seconds=5.0)
    try:
        for tenant in TENANTS:
            await Customers(client).link(tenant, customer(tenant))
    finally:
        await client.close()
    return keys


async def replay(stack: Started) -> None:
    """Deliver every record of the run once more, as a relay that has forgotten all."""
    records = [to_pb_record(it) for it in redis_log.entries(stack.state_dir / "redis")]
    target = f"unix:{StateDirectory(stack.state_dir).run}/billing.sock"
    async with grpc.aio.insecure_channel(target) as channel:
        ingest = usage_grpc.UsageIngestServiceStub(channel)
        for start in range(0, len(records), _BATCH):
            batch = usage_pb.UsageBatch(
                batch_id=start + 1, records=records[start : start + _BATCH]
            )
            request = usage_pb.ReportUsageRequest(batch=batch)
            await ingest.ReportUsage(request, wait_for_ready=True)


def reconcile(stack: Started, stripe: Stripe) -> list[str]:
    """What `tollhouse reconcile` says where it does not say that all is balanced."""
    command = (
        *(sys.executable, "-m", "tests.chaos.reconcile"),
        *("--state-dir", str(stack.state_dir), "--wait", "2"),
        *("--stripe-key-file", str(stripe.key_file), "--stripe-url", stripe.url),
    )
    environment = {**os.environ, "PYTHONPATH": PATHS}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return []
    return [f"reconcile ({done.returncode}): {(done.stdout + done.stderr)[-2000:]}"]


async def until(condition: Callable[[], bool], seconds: float) -> float | None:
    """Wait for a condition; after how many seconds it came, None if it did not."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if await asyncio.to_thread(condition):
            return time.monotonic() - began
        await asyncio.sleep(0.1)
    return None


def _write_line(file: TextIO, **values: object) -> None:
    file.write(json.dumps(values) + "\n")
    file.flush()
