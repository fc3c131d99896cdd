"""A trial: what a policy made of a workload, in the figures operators compare.

The limiter is asked and told elsewhere; here is kept what it answered and what it was
charged, one record per limit. Times are milliseconds from the first request.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tollhouse.core.buckets import GRAINS, Bucket, drain, wait_ms

WINDOW_MS = 60_000

Charge = tuple[int, int]
"""When (ms), and how many units: negative for a refund."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a trial.

    `utilisation`: units really used by what was admitted, of those the limits gave in
    the same time. `overshoot`: by how much the charges of the worst 60 s of any limit
    exceed its burst and limit, as a part of the limit; 0: never. `false_refusals`:
    refused although what they really use would have fitted, as a part of the offered.
    """

    offered: int
    admitted: int
    utilisation: float
    overshoot: float
    false_refusals: float


class Trial:
    """The record of one limit under one policy.

    A request is refused falsely if a bucket that is charged with the real units of all
    that was admitted, each when it came, had room for it.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.admitted = 0
        self.refused = 0
        self.falsely_refused = 0
        self.used = 0
        self.charges: list[Charge] = []
        self._ideal = 0
        self._ideal_at_ms = 0

    def admit(self, at_ms: int, units: int) -> None:
        """Note a request that really uses `units`."""
        self._drain(at_ms)
        self._ideal += units * GRAINS
        self.admitted += 1
        self.used += units

    def refuse(self, at_ms: int, units: int) -> None:
        """Note a request that would have used `units`."""
        self._drain(at_ms)
        self.refused += 1
        if not wait_ms(self._ideal, units * GRAINS, self.bucket):
            self.falsely_refused += 1

    def charge(self, at_ms: int, units: int) -> None:
        """Note what the limiter charged or gave back, in order of time."""
        if units:
            self.charges.append((at_ms, units))

    @property
    def overshoot(self) -> float:
        """As in `Figures`."""
        limit = self.bucket.rate
        beyond = worst(self.charges) - limit - self.bucket.capacity / GRAINS
        return max(0.0, beyond / limit)

    def _drain(self, at_ms: int) -> None:
        elapsed_ms = at_ms - self._ideal_at_ms
        self._ideal = drain(self._ideal, self.bucket.rate, elapsed_ms)
        self._ideal_at_ms = at_ms


def sum_up(trials: Collection[Trial], run_ms: int) -> Figures:
    """Put the limits of a run together; `run_ms` is how long requests came."""
    admitted = sum(trial.admitted for trial in trials)
    offered = admitted + sum(trial.refused for trial in trials)
    given = sum(trial.bucket.rate for trial in trials) * run_ms / WINDOW_MS
    return Figures(
        offered=offered,
        admitted=admitted,
        utilisation=sum(trial.used for trial in trials) / given,
        overshoot=max(trial.overshoot for trial in trials),
        false_refusals=sum(trial.falsely_refused for trial in trials) / offered,
    )


def worst(charges: Sequence[Charge]) -> int:
    """Most units charged, net of refunds, in any 60 s; 0 if there are none."""
    times = [at for at, _ in charges]
    # The sum over (t, t + 60 s] changes only where a charge enters or leaves it.
    starts = sorted({at - WINDOW_MS for at in times} | set(times))
    return max(windows(charges, starts), default=0)


def windows(charges: Sequence[Charge], starts: Sequence[int]) -> list[int]:
    """Units charged, net of refunds, in the 60 s after each start."""
    times = [at for at, _ in charges]
    sums = [0]
    for _, units in charges:
        sums.append(sums[-1] + units)
    return [
        sums[bisect_right(times, start + WINDOW_MS)] - sums[bisect_right(times, start)]
        for start in starts
    ]
