"""A gateway as a pod has it: authz, extproc and Envoy, started and ended in its order.

Redis, billing and the backend are shared by all pods, as in a cluster.
"""

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from tests.rollout import manifest
from tollhouse.adapters.address import Address
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.cli.children import Child, Children
from tollhouse.cli.parts import Stack
from tollhouse.cli.redis_users import OPERATOR
from tollhouse.cli.supervisor import Part

READY_SECONDS = 60.0
NOTICE_SECONDS = 0.75
"""How long a drain waits for endpoints to notice, twice (5 by default)."""
ENDPOINT_SECONDS = 0.5
"""How long after its pod began to end an endpoint still gets connections."""
STOP_SECONDS = 20.0
_HOOK_SECONDS = 300.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PodStack(Stack):
    """What the parts of one pod agree on."""

    base: Stack
    name: str
    drain: Address

    def socket(self, name: str) -> Address:
        """Where a part listens; some are everybody's."""
        at = self.base.state if name in ("redis", "billing") else self.state
        return Address(path=str(at.run / f"{name}.sock"))

    def redis_access(self, user: str = OPERATOR) -> RedisAccess:
        """The way to the Redis of all."""
        return self.base.redis_access(user)

    @property
    def permit(self) -> Path:
        """The file that says that the pod is to end."""
        return self.state.run / "terminating"

    @property
    def places(self) -> dict[str, str]:
        """What the manifest's places are called here."""
        return {
            "/run/tollhouse/envoy.json": str(self.bootstrap),
            "/run/tollhouse/terminating": str(self.permit),
            "$(POD_NAME)": self.name,
        }

    def parts(self) -> list[Part]:
        """authz, extproc and Envoy."""
        # Not super(): a dataclass with slots is another class than its methods know.
        named = {part.name: part for part in Stack.parts(self)}
        extproc, envoy = named["extproc-0"], named["envoy"]
        settings = {
            "NODE": self.name,
            "WORKER": self.name,
            "DRAIN_LISTEN": str(self.drain),
            "DRAIN_PERMIT": str(self.permit),
            "DRAIN_NOTICE_SECONDS": str(NOTICE_SECONDS),
        }
        environment = {
            **extproc.environment,
            **{f"TOLLHOUSE_{name}": value for name, value in settings.items()},
        }
        command = (envoy.command[0], *manifest.envoy_arguments(self.places))
        return [
            named["authz"],
            dataclasses.replace(extproc, environment=environment),
            dataclasses.replace(envoy, command=command),
        ]


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a pod came to its end."""

    hook_status: int
    """200: Envoy was drained, and all was settled."""
    drained_seconds: float
    ended_seconds: float
    """From SIGTERM to the end of the last process."""
    statuses: dict[str, int | None]


class Pod:
    """One that runs."""

    def __init__(self, stack: PodStack, children: Children) -> None:
        self.stack = stack
        self._children = children
        self._running: dict[str, Child] = {}

    @property
    def address(self) -> Address:
        """Where clients connect."""
        return self.stack.listen

    async def start(self) -> None:
        """Start the sidecars, then Envoy; return when it is ready."""
        *sidecars, envoy = self.stack.parts()
        await asyncio.gather(*map(self._start, sidecars))
        await self._start(envoy)

    async def end(self, remove: Callable[[], None]) -> Ended:
        """Do what Kubernetes does when a pod is deleted.

        `remove` takes it out of the endpoints; that, and both hooks, begin at once.
        """
        began = time.monotonic()
        asyncio.get_running_loop().call_later(ENDPOINT_SECONDS, remove)
        _, status = await asyncio.gather(self._sidecar_hook(), self._envoy_hook())
        drained = time.monotonic()
        statuses = {"envoy": await self._stop("envoy")}
        sidecars = ("authz", "extproc-0")
        ends = await asyncio.gather(*map(self._stop, sidecars))
        statuses.update(zip(sidecars, ends, strict=True))
        return Ended(status, drained - began, time.monotonic() - drained, statuses)

    async def _sidecar_hook(self) -> None:
        command = manifest.sidecar_hook(self.stack.places)
        child = self._children.spawn(
            command,
            environment=os.environ,
            log=self.stack.state.logs / "hook.log",
            directory=self.stack.state.path,
        )
        await child.exited.wait()
        if child.status:
            raise RuntimeError(f"{command}: status {child.status}")

    async def _envoy_hook(self) -> int:
        url = f"http://{self.stack.drain}{manifest.envoy_hook()}"
        async with httpx.AsyncClient(timeout=_HOOK_SECONDS) as client:
            return (await client.get(url)).status_code

    async def _start(self, part: Part) -> None:
        part.prepare()
        child = self._children.spawn(
            part.command,
            environment=part.environment,
            log=self.stack.state.logs / f"{part.name}.log",
            directory=part.directory,
        )
        self._running[part.name] = child
        await ready(part.probe, child)

    async def _stop(self, name: str) -> int | None:
        child = self._running.pop(name)
        await self._children.stop(child, STOP_SECONDS)
        return child.status


async def ready(probe: Callable[[], Awaitable[bool]], child: Child) -> None:
    """Wait for a process to be ready; fail when it ends."""
    async with asyncio.timeout(READY_SECONDS):
        while child.status is None:
            with contextlib.suppress(OSError):
                if await probe():
                    return
            await asyncio.sleep(0.05)
    raise RuntimeError(f"{child.process.args!r} ended with {child.status}")
