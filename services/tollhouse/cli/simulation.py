"""Replays a workload through the limiter's own scripts, on a clock of its own.

What runs is what runs in the gateway: Limiter, Lua scripts, estimator, and what it
learns, in a Redis that nobody else uses. Only the clients, the model and the time are
simulated: requests come when the workload says, each running one is heard of every five
seconds, as from Envoy's ledger, and settled at its end.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from itertools import count

import msgspec

from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.experience import Lessons, Refresher
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.steps import Scripts
from tollhouse.core.buckets import Bucket
from tollhouse.core.catalog import Model, Operation, Policy
from tollhouse.core.estimate import Estimate, estimate
from tollhouse.core.exchange import Beat, Settlement
from tollhouse.core.experience import Experience
from tollhouse.core.ids import exchange_id
from tollhouse.core.lesson import Lesson, lesson
from tollhouse.core.request import Request
from tollhouse.core.reservation import Granted, Reservation
from tollhouse.core.setting import Setting
from tollhouse.core.trial import Charge, Figures, Trial, sum_up
from tollhouse.core.usage import CountSource, Facts, TokenUsage, UsageKind
from tollhouse.core.workload import Arrival

BEAT_MS = 5_000
LEARN_MS = 1_000
"""How often lessons are taught, and what is new to learn is read."""
REFRESH_MS = 2_000
"""How often all that was learned is read again."""

_START_MS = 1_800_000_000_000
_CLOCK = "simulated-clock"
_BUDGET_SECONDS = 10.0
_REPORT_EVERY = 50

Progress = Callable[[int], None]
"""Told how many requests have come."""


class Reserving(StrEnum):
    """What is reserved of a request before it runs."""

    CHARGE_AFTER = "charge-after"
    """Nothing: it is admitted unless the limit is in debt, and charged at its end."""
    RESERVE_MAX = "reserve-max"
    """All it may produce."""
    LEARNED = "learned"
    """What recent answers say."""


_POLICIES = {Reserving.RESERVE_MAX: Policy.STRICT, Reserving.LEARNED: Policy.LEARNED}


@dataclass(frozen=True, slots=True)
class Result:
    """What one policy made of a workload; charges by limit."""

    policy: Reserving
    figures: Figures
    charges: Sequence[Sequence[Charge]]


class _Kind(IntEnum):
    """What happens, in the order in which it does at one moment."""

    END = 1
    BEAT = 2
    LEARN = 3
    ARRIVAL = 4


@dataclass(slots=True)
class _Running:
    """A request on its way; `charged` units are taken from its limit."""

    arrival: Arrival
    id_: str
    at_ms: int
    facts: Facts
    charged: int


async def simulate(
    url: str, setting: Setting, policy: Reserving, progress: Progress
) -> Result:
    """Replay the workload under one policy, on a Redis that is emptied for it."""
    redis = await Redis.connect(url, budget_seconds=_BUDGET_SECONDS)
    try:
        await redis.call("FLUSHALL")
        replay = _Replay(redis, setting, policy)
        await replay.run(progress)
    finally:
        await redis.close()
    trials = replay.trials.values()
    return Result(
        policy, sum_up(trials, setting.run_ms), [trial.charges for trial in trials]
    )


class _Replay:
    """One policy, from the first request to the last token."""

    def __init__(self, redis: Redis, setting: Setting, policy: Reserving) -> None:
        self._redis = redis
        self._setting = setting
        self._policy = policy
        self._limits = (setting.limit,)
        self._limiter = Limiter(
            redis, scripts=Scripts.load(clock="simulated_clock.lua")
        )
        self._experience = Experience()
        self._refresher = Refresher(redis, self._experience)
        self._teacher = Lessons(redis)
        self._lessons: list[Lesson] = []
        self._is_learning = False
        self._refreshed_ms = 0
        self._queue: list[tuple[int, _Kind, int, Arrival | _Running | None]] = []
        self._numbers = count()
        self.trials: dict[tuple[str, str], Trial] = {}

    async def run(self, progress: Progress) -> None:
        arrivals = self._setting.arrivals
        for arrival in arrivals:
            at_ms = round((arrival.at - arrivals[0].at) * 1000)
            self._plan(at_ms, _Kind.ARRIVAL, arrival)
        came = 0
        while self._queue:
            at_ms, kind, _, subject = heapq.heappop(self._queue)
            await self._redis.call("SET", _CLOCK, _START_MS + at_ms)
            if kind is not _Kind.LEARN and not self._is_learning:
                # Only while something happens: a trace may be silent for days.
                self._is_learning = True
                self._plan(at_ms + LEARN_MS, _Kind.LEARN, None)
            match subject:
                case Arrival():
                    await self._arrive(subject, at_ms)
                    came += 1
                    if came % _REPORT_EVERY == 0 or came == len(arrivals):
                        progress(came)
                case _Running() if kind is _Kind.BEAT:
                    await self._beat(subject, at_ms)
                case _Running():
                    await self._end(subject, at_ms)
                case None:
                    await self._learn(at_ms)

    def _plan(
        self, at_ms: int, kind: _Kind, subject: Arrival | _Running | None
    ) -> None:
        # The number keeps the order of equals, and subjects from being compared.
        heapq.heappush(self._queue, (at_ms, kind, next(self._numbers), subject))

    async def _arrive(self, arrival: Arrival, at_ms: int) -> None:
        now_ms, units = _START_MS + at_ms, arrival.units(self._setting.model.weights)
        id_ = exchange_id(now_ms, next(self._numbers).to_bytes(10))
        facts = self._facts(arrival)
        trial = self._trial(arrival)
        answer = await self._limiter.reserve(Reservation(id_, facts, self._limits))
        if not isinstance(answer, Granted):
            trial.refuse(at_ms, units)
            return
        trial.admit(at_ms, units)
        trial.charge(at_ms, facts.reserved_units)
        facts = msgspec.structs.replace(facts, debits=answer.debits)
        running = _Running(arrival, id_, at_ms, facts, facts.reserved_units)
        self._plan(at_ms + round(arrival.duration * 1000), _Kind.END, running)
        if self._policy is not Reserving.CHARGE_AFTER:
            self._plan_beat(running, at_ms)

    def _plan_beat(self, running: _Running, at_ms: int) -> None:
        next_ms = at_ms + BEAT_MS
        if next_ms < running.at_ms + running.arrival.duration * 1000:
            self._plan(next_ms, _Kind.BEAT, running)

    async def _beat(self, running: _Running, at_ms: int) -> None:
        usage = TokenUsage(
            input_tokens=running.arrival.input,
            output_tokens=running.arrival.output_after((at_ms - running.at_ms) / 1000),
        )
        beat = Beat(
            exchange_id=running.id_,
            facts=running.facts,
            usage=usage,
            input_source=CountSource.BACKEND,
            output_source=CountSource.METER,
            started_ms=_START_MS + running.at_ms,
            first_ms=0,
            at_ms=_START_MS + at_ms,
        )
        await self._limiter.beat_many([beat])
        units = max(running.charged, usage.units(running.facts.weights))
        self._charge(running, at_ms, units)
        self._plan_beat(running, at_ms)

    async def _end(self, running: _Running, at_ms: int) -> None:
        usage = TokenUsage(
            input_tokens=running.arrival.input, output_tokens=running.arrival.output
        )
        now_ms = _START_MS + at_ms
        settlement = Settlement(
            exchange_id=running.id_,
            facts=running.facts,
            kind=UsageKind.FINAL,
            usage=usage,
            input_source=CountSource.BACKEND,
            output_source=CountSource.BACKEND,
            started_ms=_START_MS + running.at_ms,
            first_ms=0,
            ended_ms=now_ms,
            flags="",
        )
        await self._limiter.settle_many([settlement])
        self._charge(running, at_ms, usage.units(running.facts.weights))
        if taught := lesson(settlement, now_ms):
            self._lessons.append(taught)

    def _charge(self, running: _Running, at_ms: int, units: int) -> None:
        self._trial(running.arrival).charge(at_ms, units - running.charged)
        running.charged = units

    async def _learn(self, at_ms: int) -> None:
        lessons, self._lessons = self._lessons, []
        if lessons:
            await self._teacher.teach(lessons)
        cohorts = self._experience.wishes
        if at_ms - self._refreshed_ms >= REFRESH_MS:
            cohorts, self._refreshed_ms = self._experience.asked, at_ms
        await self._refresher.refresh(cohorts)
        self._is_learning = bool(self._experience.asked)
        if self._is_learning:
            self._plan(at_ms + LEARN_MS, _Kind.LEARN, None)

    def _trial(self, arrival: Arrival) -> Trial:
        owner = (arrival.tenant, arrival.model)
        if owner not in self.trials:
            self.trials[owner] = Trial(Bucket.of(self._setting.limit))
        return self.trials[owner]

    def _facts(self, arrival: Arrival) -> Facts:
        model = replace(self._setting.model, name=arrival.model)
        request = _request(arrival, model)
        expected = self._estimate(request, model, arrival)
        weights = model.weights
        return Facts(
            tenant=arrival.tenant,
            key_id="simulated",
            plan="simulated",
            operation=request.operation.value,
            requested_model=model.name,
            served_model=model.name,
            cluster=model.cluster,
            provider=model.provider.value,
            weights=(weights.input, weights.cached_input, weights.output),
            reserved_units=expected.units(weights),
            input_estimate=expected.input_tokens,
            output_estimate=expected.output_tokens,
            text_bytes=request.text_bytes,
            framing=expected.framing,
            output_cap=arrival.max_tokens,
        )

    def _estimate(self, request: Request, model: Model, arrival: Arrival) -> Estimate:
        if self._policy is Reserving.CHARGE_AFTER:
            return Estimate(input_tokens=0, output_tokens=0, framing=0)
        policy = _POLICIES[self._policy]
        return estimate(request, model, arrival.tenant, policy, self._experience)


def _request(arrival: Arrival, model: Model) -> Request:
    """Make a request as admission reads it, its text as long as its tokens are."""
    return Request(
        operation=Operation.CHAT,
        model=model.name,
        stream=True,
        wants_usage=True,
        choices=1,
        output_cap=arrival.max_tokens,
        messages=0,
        text_bytes=round(arrival.input * model.bytes_per_token),
        images=0,
        stream_options={},
        fields={},
    )
