"""One run: load and blows by the schedule of a seed, calm, then the ledgers."""

import asyncio
import contextlib
import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.chaos import ledgers, rig, schedule
from tests.chaos.controls import CONTROLS
from tests.chaos.load import Load, send, wishes
from tests.chaos.part import AHEAD_SECONDS
from tests.chaos.schedule import Blow, Deed, Shape
from tests.chaos.verdict import Verdict, judge
from tests.stack_redis import open_redis

LEASE_SECONDS = 20.0
"""How long an exchange may be silent: the end of one that died with its Envoy."""
DRAIN_SECONDS = 30.0
"""Counted from the calm, or from when the last such lease ran out if that is later.

A reaper waits 10 s after Redis came back and looks every 5 s.
"""
_UP_SECONDS = 20.0
_LONGEST = 2.0
"""Times what a blow should last."""
_KILLS = (Deed.KILL, Deed.AMBUSH)
_OFTEN = ("extproc-0", "extproc-1", "billing", "redis", "authz")
_OWN_END = re.compile(r"^.*\bexited with code.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """A run before it is made."""

    seed: int
    shape: Shape
    folder: Path
    control: str | None = None
    faults: float = 0.4
    """Share of the provider's calls that go wrong."""

    @property
    def aggregators(self) -> int:
        """Two that compete for every shard; one with each third seed."""
        return 2 if self.seed % 3 else 1

    @property
    def parts(self) -> tuple[str, ...]:
        """Those that are killed often."""
        return _OFTEN if self.aggregators == 1 else (*_OFTEN, "billing-2")


@dataclass(slots=True)
class Result:
    """What became of one."""

    plan: Plan
    verdict: Verdict
    requests: int = 0
    tries: int = 0
    blows: int = 0
    kills: int = 0
    recognised: int = 0
    """Records that came to an aggregator again."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """To the provider, by outcome."""
    drained_seconds: float | None = None
    """After the calm began; None: not in time."""

    @property
    def is_as_it_should(self) -> bool:
        """Whether nothing is wrong, or a mistake was found for what it is."""
        findings = self.verdict.findings
        if self.plan.control is None:
            return not findings
        sign = CONTROLS[self.plan.control].sign
        return any(re.search(sign, it) for it in findings)


@dataclass(slots=True)
class _Done:
    """What was done to the stack; `at` in Unix seconds."""

    at: float
    deed: Deed
    part: str


class _Torment:
    """Does the blows of a schedule as the load goes on."""

    def __init__(
        self,
        stack: rig.Started,
        stripe: rig.Stripe,
        blows: Sequence[Blow],
        rate: float,
    ) -> None:
        self._stack = stack
        self._stripe = stripe
        self._blows = blows
        self._rate = rate
        self.done: list[_Done] = []
        self._stopped: dict[Blow, int] = {}
        self._ends: set[asyncio.Task[None]] = set()
        self._reached = 0
        self._moved = asyncio.Event()

    def reach(self, begun: int) -> None:
        """So many requests were begun."""
        self._reached = begun
        self._moved.set()

    async def run(self) -> None:
        """Do all of them; cancelled when the load is over."""
        try:
            for blow in self._blows:
                await self._until(blow.after)
                if await self._begin(blow) and blow.lasts:
                    self._ends.add(asyncio.create_task(self._later(blow)))
            await asyncio.Event().wait()
        finally:
            for task in self._ends:
                task.cancel()
            for pid in self._stopped.values():
                rig.send_signal(pid, signal.SIGCONT)

    async def _later(self, blow: Blow) -> None:
        """End a blow; by the clock where it holds up the very load."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST * blow.lasts / self._rate):
                await self._until(self._reached + blow.lasts)
        await self._end(blow)

    async def _until(self, begun: int) -> None:
        while self._reached < begun:
            self._moved.clear()
            await self._moved.wait()

    async def _begin(self, blow: Blow) -> bool:
        """Whether there was somebody to do it to."""
        if blow.deed is Deed.OUTAGE:
            await asyncio.to_thread(self._stripe.outage, None)
        else:
            number = signal.SIGKILL if blow.deed is Deed.KILL else signal.SIGSTOP
            pid = await self._signal(blow.part, number)
            if pid is None:
                return False
            if number == signal.SIGSTOP:
                self._stopped[blow] = pid
        self.done.append(_Done(time.time(), blow.deed, blow.part))
        return True

    async def _end(self, blow: Blow) -> None:
        if blow.deed is Deed.OUTAGE:
            await asyncio.to_thread(self._stripe.outage, 0)
        elif (pid := self._stopped.pop(blow, None)) is not None:
            rig.send_signal(pid, signal.SIGCONT)
            if blow.deed is Deed.AMBUSH:
                await asyncio.sleep(blow.wakes_seconds)
                rig.send_signal(pid, signal.SIGKILL)

    async def _signal(self, part: str, number: int) -> int | None:
        """Send it once the part is up; None if that takes too long."""
        deadline = time.monotonic() + _UP_SECONDS
        while time.monotonic() < deadline:
            pid = self._stack.pid(part)
            if pid is not None and rig.send_signal(pid, number):
                return pid
            await asyncio.sleep(0.05)
        return None


async def run(plan: Plan, progressed: Callable[[float], None]) -> Result:
    """Make a run in its folder, which it keeps. Raises RigError when it can't."""
    shutil.rmtree(plan.folder, ignore_errors=True)
    plan.folder.mkdir(parents=True)
    stripe = rig.Stripe(
        plan.folder, seed=plan.seed, faults=plan.faults, ahead=AHEAD_SECONDS
    )
    with contextlib.ExitStack() as held:
        held.callback(stripe.stop)
        async with rig.running_engine(plan.folder) as backend:
            options = [
                *("--backend", backend, "--stripe-url", stripe.url),
                *("--stripe-key-file", str(stripe.key_file)),
                *("--aggregators", str(plan.aggregators)),
            ]
            if plan.control is not None:
                options += ["--control", plan.control]
            stack = held.enter_context(rig.running_stack(plan.folder, *options))
            return await _run(plan, stack, stripe, progressed)


async def _run(
    plan: Plan,
    stack: rig.Started,
    stripe: rig.Stripe,
    progressed: Callable[[float], None],
) -> Result:
    shape = plan.shape
    blows = schedule.draw(plan.seed, plan.parts, shape)
    _write(plan.folder / "schedule.jsonl", (it.to_json() for it in blows))
    torment, load = _Torment(stack, stripe, blows, shape.rate), Load()

    def reached(begun: int) -> None:
        torment.reach(begun)
        progressed(begun / shape.requests)

    keys = await rig.admit_tenants(stack)
    tormenting = asyncio.create_task(torment.run())
    wanted = wishes(plan.seed, shape.requests, rig.TENANTS, rig.MODELS)
    try:
        await send(
            wanted,
            load,
            base_url=stack.base_url,
            keys=keys,
            rate=shape.rate,
            progressed=reached,
        )
    finally:
        tormenting.cancel()
        await asyncio.wait([tormenting])
        _write(plan.folder / "done.jsonl", map(asdict, torment.done))
        _write(plan.folder / "views.jsonl", (it.to_json() for it in load.views))
    await asyncio.to_thread(stripe.calm)
    killed_at = [
        it.at
        for it in torment.done
        if (it.deed, it.part) == (Deed.KILL, schedule.ENVOY)
    ]
    drained, findings = await _drain(stack, killed_at)
    recognised = _recognised(stack.state_dir / "logs")
    read = ledgers.read(plan.folder, stack.redis_access(), stripe.totals())
    verdict = judge(read, load.views, killed_at)
    verdict.findings[:0] = findings
    if not verdict.findings:
        await rig.replay(stack)
        await _drain(stack, [])
        read = ledgers.read(plan.folder, stack.redis_access(), stripe.totals())
        again = judge(read, load.views, killed_at).findings
        verdict.findings += (f"after a replay: {it}" for it in again)
    verdict.findings += await asyncio.to_thread(rig.reconcile, stack, stripe)
    output = (plan.folder / "stack.log").read_text("utf-8")
    verdict.findings += _OWN_END.findall(output)
    return Result(
        plan=plan,
        verdict=verdict,
        requests=load.begun,
        tries=len(load.views),
        blows=len(torment.done),
        kills=sum(it.deed in _KILLS for it in torment.done),
        recognised=recognised,
        calls=await asyncio.to_thread(stripe.counts),
        drained_seconds=drained,
    )


async def _drain(
    stack: rig.Started, killed_at: list[float]
) -> tuple[float | None, list[str]]:
    """Wait until all is at rest; how long that took, and what is wrong with it."""
    calm_at = time.time()
    last_lease = max((it + LEASE_SECONDS for it in killed_at), default=0.0)
    patience = DRAIN_SECONDS + max(0.0, last_lease - calm_at)
    with open_redis(stack.redis_access()) as client:

        def is_at_rest() -> bool:
            try:
                return not ledgers.waiting(client)
            except redis.RedisError:  # it comes back
                return False

        drained = await rig.until(is_at_rest, patience)
        if drained is None:
            left = dict(ledgers.waiting(client))
            return None, [f"not drained after {patience:.0f} s: {left}"]
        set_aside = dict(ledgers.parked(client))
        return drained, [f"parked: {set_aside}"] if set_aside else []


def _recognised(logs: Path) -> int:
    total = 0
    for path in logs.glob("billing*.log"):
        for line in path.read_text("utf-8").splitlines():
            if "records.recognised" in line:
                total += json.loads(line)["count"]
    return total


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(it) + "\n" for it in rows), "utf-8")
