"""Asks for room on behalf of requests, and holds those that may find some soon."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import structlog

from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.tracing import Tracing
from tollhouse.core.admission_messages import Command, Release, Reserve
from tollhouse.core.limits import Measure
from tollhouse.core.problems import Kind, Problem, Unavailable
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.core.stream_admission import StreamCommand
from tollhouse.extproc.ladder import Ladder
from tollhouse.extproc.trail import Trail

_log = structlog.get_logger()

AWAY = Problem(
    Kind.UNAVAILABLE,
    "Limits can't be checked right now; try again in a moment.",
    headers={"retry-after": "1"},
)

Verdict = Granted | Refused | None
"""None: nobody could judge."""

HOLD_STEP_SECONDS = 0.05
"""How often a held request asks again: a Redis call each."""
MOST_HELD = 256
"""Requests held at once, per worker; one more is refused at once."""
MOST_HELD_OF_TENANT = 32
"""Of these, of one tenant: nobody waits in all the places there are."""


class Reserving:
    """What all requests of a worker have in common when they ask for room."""

    def __init__(self, ladder: Ladder, metrics: Metrics, tracing: Tracing) -> None:
        self._ladder = ladder
        self._metrics = metrics
        self._tracing = tracing
        self._failed_for: str | None = None
        self._held = Counter[str]()
        self._releases: set[asyncio.Task[None]] = set()

    async def drain(self) -> None:
        """Wait for the releases under way; call it once the server has stopped."""
        await asyncio.gather(*self._releases)

    async def reserve(self, command: Reserve, trail: Trail) -> Verdict:
        """Ask once."""
        trail.reservation = command.reservation
        try:
            verdict = await self._ladder.reserve(
                command.reservation, command.redis_down, trail
            )
        except Unavailable as error:
            # Of the others the ladder tells; these would fill the log as well.
            if not error.transient and str(error) != self._failed_for:
                self._failed_for = str(error)
                _log.error("reservation.failed", reason=self._failed_for)
            return None
        self._failed_for = None
        return verdict

    async def hold(self, command: Reserve, trail: Trail) -> Verdict:
        """Ask again until there is room, something else refuses, or the time is up."""
        clock = asyncio.get_running_loop().time
        since = clock()
        until = since + command.hold_seconds
        held = Reserve(
            replace(command.reservation, is_held=True),
            command.redis_down,
            command.hold_seconds,
        )
        while True:
            await asyncio.sleep(min(HOLD_STEP_SECONDS, max(0, until - clock())))
            verdict = await self.reserve(held, trail)
            if not may_be_held(verdict, held) or clock() >= until:
                trail.held_seconds += clock() - since
                return verdict

    @contextlib.contextmanager
    def place(self, tenant: str) -> Iterator[bool]:
        """Take a place among the held until the block ends, if one is free."""
        held = self._held
        if held.total() >= MOST_HELD or held[tenant] >= MOST_HELD_OF_TENANT:
            yield False
            return
        held[tenant] += 1
        try:
            yield True
        finally:
            held[tenant] -= 1
            if not held[tenant]:
                del held[tenant]

    def count(self, verdict: Verdict, reservation: Reservation, trail: Trail) -> None:
        """Tell operators which limits bind."""
        facts = reservation.facts
        match verdict:
            case Refused(limit):
                trail.limit = limit
                self._metrics.refused(limit, facts.served_model, facts.plan)
            case Granted(shadowed=limits):
                for limit in limits:
                    self._metrics.shadowed(limit, facts.served_model, facts.plan)
                    _log.info(
                        "limit.shadowed",
                        exchange_id=reservation.exchange_id,
                        tenant=facts.tenant,
                        key_id=facts.key_id,
                        scope=limit.scope.name.lower(),
                        measure=limit.measure.name.lower(),
                    )

    def end(self, ending: Command | StreamCommand | None, trail: Trail) -> None:
        """Tell of an admission that is over; first do what its end commands, if any.

        That is to give its reservation back, in the background.
        """
        if not isinstance(ending, Release):
            trail.tell(self._tracing)
            return
        task = asyncio.create_task(self._release(ending.reservation, trail))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, reservation: Reservation, trail: Trail) -> None:
        # Else the ledger's end line, which has no `admitted`, releases it later.
        with contextlib.suppress(Unavailable):
            await self._ladder.release(reservation, trail)
        trail.tell(self._tracing)


def may_be_held(verdict: Verdict, command: Reserve) -> bool:
    """Whether time may help: the model is full, the client over no limit of its own."""
    return (
        isinstance(verdict, Refused)
        and command.hold_seconds > 0
        and verdict.limit.measure is Measure.CAPACITY
    )
