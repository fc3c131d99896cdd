"""Which calls suffer what: seeded, per subject and how often it was called.

A fault depends on the seed, the subject (an event's identifier, or else method and
path) and its n-th call only, so a seed gives every identifier the same fate however
calls interleave. Counts start again with the process.
"""

import collections
import random
from collections.abc import Mapping
from typing import Literal, get_args

FaultKind = Literal[
    "rate_limit",
    "conflict",
    "error_before",
    "error_after",
    "reset_before",
    "reset_after",
    "hang_after",
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
WEIGHTS: Mapping[FaultKind, float] = {
    "rate_limit": 0.2,
    "conflict": 0.1,
    "error_before": 0.15,
    "error_after": 0.15,
    "reset_before": 0.1,
    "reset_after": 0.2,
    "hang_after": 0.1,
}


class Faults:
    """Draws the fault of each call, planned ones first."""

    def __init__(self) -> None:
        self._calls: collections.Counter[str] = collections.Counter()
        self._plans: list[tuple[FaultKind, str | None]] = []

    def plan(self, kind: FaultKind, on: str | None = None) -> None:
        """Let the next call suffer it: with identifier or path `on`, or any.

        Planned twice, it happens to the next two.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind} is none of {', '.join(KINDS)}")
        self._plans.append((kind, on))

    def draw(
        self,
        subject: str,
        path: str,
        *,
        seed: int,
        share: float,
        weights: Mapping[FaultKind, float] = WEIGHTS,
    ) -> FaultKind | None:
        """What this call suffers, if anything; `share` is between 0 and 1."""
        self._calls[subject] += 1
        for number, (kind, on) in enumerate(self._plans):
            if on in (None, subject, path):
                del self._plans[number]
                return kind
        chance = random.Random(f"{seed}|{subject}|{self._calls[subject]}")
        if chance.random() >= share:
            return None
        kinds = list(weights)
        return chance.choices(kinds, [weights[kind] for kind in kinds])[0]
