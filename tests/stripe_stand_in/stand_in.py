"""The stand-in itself: its state, and the handle that tests hold.

It is our reading of Stripe's documents and of its Python SDK, and was never compared
with the real Stripe.
"""

import asyncio
import collections
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from tests.stripe_stand_in.catalog import Catalog
from tests.stripe_stand_in.clock import Clock
from tests.stripe_stand_in.faults import Faults
from tests.stripe_stand_in.journal import Journal
from tests.stripe_stand_in.meter_events import MeterEvent, MeterEvents
from tests.stripe_stand_in.objects import Object, Objects
from tests.stripe_stand_in.refusals import locked
from tests.stripe_stand_in.replays import Replays
from tests.stripe_stand_in.reports import Delivery, Reports
from tests.stripe_stand_in.settings import Settings


@dataclasses.dataclass(slots=True)
class Call:
    """One call as it was seen."""

    method: str
    path: str
    subject: str
    """The identifier of its event, or else method and path."""
    idempotency_key: str | None
    outcome: str = "running"


class StandIn:
    """What a Stripe account would be, and what a test may do to it."""

    def __init__(
        self, state: Path | None = None, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.url = ""
        self.clock = Clock()
        self.faults = Faults()
        self.journal = Journal(state)
        self.objects = Objects(self.journal)
        self.catalog = Catalog(self.clock, self.objects)
        self.meter_events = MeterEvents(self.clock, self.objects, self.journal)
        self.replays = Replays(self.clock, self.journal)
        self.reports = Reports(self.clock, self.settings, self.journal)
        self.sessions: dict[str, float] = {}
        """When each token of a meter event session ends, by its clock."""
        self.calls: list[Call] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.violations: list[str] = []
        self.max_concurrency: dict[tuple[str, str], int] = {}
        self.highest_rate = 0
        self.closing = asyncio.Event()
        """Set at the end: whoever waits stops."""
        self._running: collections.Counter[tuple[str, str]] = collections.Counter()
        self._recent: collections.deque[float] = collections.deque()
        self._down_until = 0.0
        self._load()

    @property
    def api_key(self) -> str:
        """A key that may do everything."""
        return min(self.settings.api_keys)

    @property
    def events(self) -> list[MeterEvent]:
        """Every meter event that was taken, in order of arrival."""
        return self.meter_events.taken

    @property
    def thin_events(self) -> list[Object]:
        """Every error report, in full."""
        return list(self.reports.events.values())

    @property
    def deliveries(self) -> list[Delivery]:
        """Every try to bring one to the webhook."""
        return self.reports.deliveries

    def totals(self) -> dict[tuple[str, str, int], int]:
        """What counts, by customer, event name and UTC hour since 1970."""
        return self.meter_events.totals()

    def add_meter(self, event_name: str, formula: str = "sum") -> str:
        """Make a meter; returns its id."""
        form = {
            "display_name": event_name,
            "event_name": event_name,
            "default_aggregation": {"formula": formula},
        }
        return str(self.catalog.add_meter(form)["id"])

    def add_customer(self, identity: str | None = None) -> str:
        """Make a customer, of this id if one is given; returns it."""
        return str(self.catalog.add_customer({}, identity)["id"])

    def outage(self, seconds: float | None = None) -> None:
        """Reset every connection that calls, for so long or until told."""
        forever = float("inf")
        self._down_until = forever if seconds is None else time.monotonic() + seconds

    def end_outage(self) -> None:
        """Answer again."""
        self._down_until = 0.0

    @property
    def is_down(self) -> bool:
        """Whether there is an outage."""
        return time.monotonic() < self._down_until

    def move_clock(
        self, *, advance: float | None = None, to: float | None = None
    ) -> float:
        """Move its time, on disk too; returns the time it is now."""
        if to is not None:
            self.clock.set(to)
        if advance is not None:
            self.clock.advance(advance)
        self.journal.append("clock", offset=self.clock.offset)
        return self.clock.now()

    async def reports_sent(self) -> None:
        """Return when every error report was delivered or given up."""
        await self.reports.settled()

    def note_call(self, call: Call) -> int:
        """Remember a call; returns how many came within the last second, with it."""
        self.calls.append(call)
        now = time.monotonic()
        self._recent.append(now)
        while self._recent[0] <= now - 1.0:
            self._recent.popleft()
        self.highest_rate = max(self.highest_rate, len(self._recent))
        return len(self._recent)

    @contextlib.contextmanager
    def only_call(self, pair: tuple[str, str]) -> Iterator[None]:
        """Hold the lock of customer × meter; raises Refusal if another call does."""
        self._running[pair] += 1
        running = self._running[pair]
        self.max_concurrency[pair] = max(running, self.max_concurrency.get(pair, 0))
        try:
            if running > 1:
                raise locked()
            yield
        finally:
            self._running[pair] -= 1

    async def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the stand-in."""
        if seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)

    def _load(self) -> None:
        for line in self.journal.load():
            match line["kind"]:
                case "object":
                    self.objects.load(line["object"])
                case "meter_event" | "cancelled":
                    self.meter_events.load(line)
                case "replay":
                    self.replays.load(line)
                case "thin_event":
                    self.reports.load(line)
                case "session":
                    self.sessions[line["token"]] = line["ends"]
                case "clock":
                    self.clock.offset = line["offset"]
                case kind:
                    raise ValueError(f"the state file has a line of kind {kind}")
