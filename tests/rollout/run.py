"""One run: two gateways behind one client, each replaced in turn, again and again."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Self

from tests.chaos.rig import running_engine, write_config
from tests.rollout import books
from tests.rollout.load import TENANT, Load, Service
from tests.rollout.pod import Ended, Pod, PodStack, ready
from tollhouse.adapters.address import Address
from tollhouse.adapters.configuration import Configuration, load
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.cli import edge_file, places
from tollhouse.cli.backend import Backend, for_backend
from tollhouse.cli.children import Children
from tollhouse.cli.parts import Stack
from tollhouse.cli.ports import free_ports
from tollhouse.cli.state import StateDirectory, write_secret, write_whole

PODS = 2
MOST_ENDING = 2
REST_SECONDS = 20.0
_STEADY_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a run does."""

    rolls: int
    streams: int
    longest_seconds: float
    """The longest stream."""
    folder: Path


class Cluster:
    """What all pods share, and the pods."""

    def __init__(
        self, base: Stack, configuration: Configuration, backend: str, folder: Path
    ) -> None:
        self.base = base
        self.service = Service()
        self.pods: list[Pod] = []
        self._configuration = configuration
        self._backend = Backend.parse(backend)
        self._folder = folder
        self._children = Children()
        self._held = contextlib.AsyncExitStack()
        self._made = 0
        self._rendered: PodStack | None = None
        self._places = asyncio.Semaphore(MOST_ENDING)

    async def __aenter__(self) -> Self:
        """Start Redis and billing, and two gateways."""
        self._held.enter_context(self.base.state.hold())
        await self._held.enter_async_context(self._children)
        for part in self.base.parts():
            if part.name in ("redis", "billing"):
                part.prepare()
                child = self._children.spawn(
                    part.command,
                    environment=part.environment,
                    log=self.base.state.logs / f"{part.name}.log",
                    directory=part.directory,
                )
                await ready(part.probe, child)
        for pod in await asyncio.gather(*(self.surge() for _ in range(PODS))):
            self._join(pod)
        return self

    async def __aexit__(self, *error: object) -> None:
        """End what runs."""
        await self._held.aclose()

    async def surge(self) -> Pod:
        """Start one gateway more; it gets no requests yet."""
        self._made += 1
        name = f"pod-{self._made}"
        state = StateDirectory(self._folder / name)
        state.path.mkdir()
        write_secret(state.pepper, self.base.state.pepper.read_text().strip())
        self._held.enter_context(state.hold())
        listen, admin, drain = (
            Address(host="127.0.0.1", port=port) for port in free_ports(3)
        )
        stack = PodStack(
            state=state,
            config=self.base.config,
            envoy=self.base.envoy,
            redis=self.base.redis,
            listen=listen,
            admin=admin,
            workers=1,
            engine=None,
            base=self.base,
            name=name,
            drain=drain,
        )
        self._render(stack)
        pod = Pod(stack, self._children)
        await pod.start()
        return pod

    async def roll(self, told: Callable[[str], None]) -> "asyncio.Task[list[str]]":
        """Put a new gateway in the place of the oldest one, which then ends.

        As for a Deployment, pods that end are no reason to wait, up to MOST_ENDING. The
        task returns what went wrong beside the clients' requests.
        """
        began = time.monotonic()
        new = await self.surge()
        self._join(new)
        ready_in = time.monotonic() - began
        await self._places.acquire()
        old = self.pods.pop(0)

        async def end() -> list[str]:
            ended = await old.end(lambda: self.service.remove(old.address))
            self._places.release()
            told(
                f"{old.stack.name} -> {new.stack.name}: ready in {ready_in:.1f} s,"
                f" drained in {ended.drained_seconds:.1f} s,"
                f" ended in {ended.ended_seconds:.1f} s"
            )
            return [f"{old.stack.name}: {it}" for it in _faults(old.stack, ended)]

        return asyncio.create_task(end())

    def _render(self, stack: PodStack) -> None:
        """Write Envoy's file; from the first pod's, as making one takes seconds."""
        if self._rendered is None:
            edge = edge_file.read(places.default_envoy(), self._configuration)
            edge_file.write(edge, stack, self._backend)
            self._rendered = stack
            return
        text = self._rendered.bootstrap.read_text("utf-8")
        for there, here in zip(_own(self._rendered), _own(stack), strict=True):
            text = text.replace(there, here)
        write_whole(stack.bootstrap, text, mode=0o600)

    def _join(self, pod: Pod) -> None:
        self.pods.append(pod)
        self.service.add(pod.address)


def _own(stack: PodStack) -> list[str]:
    """What no other pod's file has."""
    ports = [f'"port_value": {it.port}' for it in (stack.listen, stack.admin)]
    state = stack.state
    return [str(state.run), str(state.path), state.proof.read_text().strip(), *ports]


def _faults(stack: PodStack, ended: Ended) -> Iterator[str]:
    for name, status in ended.statuses.items():
        if status:
            yield f"{name} ended with {status}"
    if ended.hook_status != HTTPStatus.OK:
        yield f"the preStop hook was answered with {ended.hook_status}"
    if left := books.unsettled_bytes(stack):
        yield f"{left} bytes of the ledger are not settled"


@contextlib.asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Run the engine, Redis, billing and two gateways until the block ends."""
    config = write_config(folder / "tollhouse.yaml")
    configuration = for_backend(load(config))
    nowhere = Address(host="127.0.0.1", port=9)
    base = Stack(
        state=StateDirectory(folder / "base"),
        config=config.absolute(),
        envoy=places.envoy_binary(),
        redis=places.redis_binary(),
        listen=nowhere,
        admin=nowhere,
        workers=1,
        engine=None,
    )
    async with (
        running_engine(folder) as backend,
        Cluster(base, configuration, backend, folder) as cluster,
    ):
        yield cluster


async def run(plan: Plan, told: Callable[[str], None]) -> list[str]:
    """Do what the plan says; what was found, empty if all went well."""
    async with running_cluster(plan.folder) as cluster:
        access = cluster.base.redis_access()
        pepper = Pepper.read(cluster.base.state.pepper)
        with contextlib.closing(Keyring(access, pepper)) as keyring:
            keyring.create_tenant(TENANT, "degrade")
            key, _ = keyring.create_key(TENANT)
        seconds = (1.2, plan.longest_seconds)
        load_ = Load(cluster.service, key, plan.streams, seconds)
        tally = load_.tally
        clients = asyncio.create_task(load_.run())
        await asyncio.sleep(_STEADY_SECONDS)
        endings = []
        for number in range(1, plan.rolls + 1):

            def say(text: str, number: int = number) -> None:
                told(
                    f"roll {number}/{plan.rolls}  {text};"
                    f" {tally.running} streams run, {len(tally.answers)} answers"
                    f" ({tally.streams} streams), {len(tally.cut)} cut,"
                    f" {len(tally.refused)} refused, {tally.again} sent again"
                )

            endings.append(await cluster.roll(say))
        found = [fault for ending in endings for fault in await ending]
        load_.is_over = True
        await clients
        found += tally.cut + tally.refused
        if not await _within(REST_SECONDS, lambda: books.is_at_rest(access)):
            found.append(f"not at rest after {REST_SECONDS:.0f} s")
        engine = plan.folder / "engine.jsonl"
        found += books.findings(cluster.base.state.path, engine, tally.answers)
        told(
            f"{len(tally.answers)} exchanges, {sum(tally.answers.values())} tokens:"
            f" {len(tally.cut)} cut, {len(tally.refused)} refused,"
            f" {tally.again} sent again"
        )
        return found


async def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Wait for what other processes decide."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True
