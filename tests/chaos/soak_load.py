"""The soak's clients: small requests at a rate, and what they saw in each phase."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.chaos import rig
from tests.chaos.client import Answered, Connection
from tests.chaos.load import View, Wish
from tests.e2e.main.load import Seen
from tollhouse.cli.console import Console

CONNECTIONS = 30


@dataclass(slots=True)
class Phase:
    """What clients saw in a while."""

    name: str
    wanted_seconds: float
    lasted_seconds: float = 0.0
    """Longer where the machine can't carry the rate."""
    took: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.took) / self.lasted_seconds

    @property
    def p50(self) -> float:
        """In milliseconds."""
        return 1000 * statistics.median(self.took)

    @property
    def p99(self) -> float:
        """In milliseconds."""
        return 1000 * statistics.quantiles(self.took, n=100)[98]

    def row(self) -> str:
        """Of the table."""
        statuses = ", ".join(f"{it}: {n:,}" for it, n in sorted(self.statuses.items()))
        return (
            f"| {self.name} | {self.lasted_seconds:.0f} | {self.rate:.0f} |"
            f" {statuses} | {self.p50:.2f} / {self.p99:.2f} |"
        )


class Load:
    """Clients of all tenants, at a rate."""

    def __init__(self, base_url: str, keys: Mapping[str, str], rate: float) -> None:
        self._base_url = base_url
        self._keys = keys
        self._rate = rate
        self._console = Console()
        self.views: list[View] = []

    async def run(self, phase: Phase) -> Phase:
        """Send for as long as the phase is to last."""
        began = time.monotonic()
        numbers = iter(range(round(phase.wanted_seconds * self._rate)))
        wishes = [
            # Small answers: what is measured is the way of a record.
            Wish(tenant, model, False, 40, 10, 12, 0.0, None)
            for tenant in rig.TENANTS
            for model in rig.MODELS
        ]
        await asyncio.gather(
            *(
                self._client(phase, wishes[it % len(wishes)], numbers, began)
                for it in range(CONNECTIONS)
            )
        )
        phase.lasted_seconds = time.monotonic() - began
        return phase

    async def _client(
        self, phase: Phase, wish: Wish, numbers: Iterator[int], began: float
    ) -> None:
        """Send the next request nobody has sent when it is due, to the last."""
        key, prompt = self._keys[wish.tenant], wish.prompt
        async with Connection(self._base_url, key) as connection:
            for number in numbers:
                due = number / self._rate
                await asyncio.sleep(began + due - time.monotonic())
                answered = await connection.ask(wish.model, prompt)
                self._see(phase, wish, answered)
                if number % 100 == 0:
                    share = due / phase.wanted_seconds
                    self._console.progress(phase.name, share)

    def _see(self, phase: Phase, wish: Wish, answered: Answered) -> None:
        phase.took.append(answered.seconds)
        phase.statuses[answered.status] += 1
        end = "complete" if answered.status == 200 else "refused"
        seen = Seen(False, end, answered.status, answered.exchange or None)
        self.views.append(View(wish, 0.0, seen))
