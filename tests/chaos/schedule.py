"""What happens to a run and when: drawn from its seed, tied to the load's progress.

When is counted in requests that were begun, so the same seed does the same on a fast
and on a slow machine, as far as processes allow.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any


class Deed(StrEnum):
    """What is done."""

    KILL = "kill"
    """SIGKILL; the supervisor starts the part again."""
    STOP = "stop"
    """SIGSTOP, and SIGCONT after a while."""
    AMBUSH = "ambush"
    """SIGSTOP, and after a while SIGCONT and SIGKILL while it makes up for it.

    Then most of what was asked of it is done, and nobody has heard of it.
    """
    OUTAGE = "outage"
    """The provider resets every connection for a while."""


ENVOY = "envoy"
OUTAGES = 2


@dataclass(frozen=True, slots=True)
class Blow:
    """One thing done to the stack after so many requests, ended after so many more."""

    after: int
    deed: Deed
    part: str = ""
    lasts: int = 0
    wakes_seconds: float = 0.0
    """Of an ambush: how long it lives after SIGCONT."""

    def to_json(self) -> dict[str, Any]:
        """As the artefacts of a run show it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Shape:
    """How rough a run is: `rate` requests a second, blows every `gaps` seconds."""

    requests: int
    rate: float
    gaps: tuple[float, float] = (1.0, 2.0)
    stop_seconds: float = 2.0
    ambush_seconds: float = 1.0
    wake_seconds: tuple[float, float] = (0.005, 0.08)
    outage_seconds: float = 3.0
    calm_share: float = 0.05
    """Of the requests, at the end: nothing is done to the stack any more."""


def draw(seed: int, parts: Sequence[str], shape: Shape) -> list[Blow]:
    """Draw a run's blows, in order; `parts` are those killed often."""
    chance = random.Random(seed)
    blows: list[Blow] = []
    deck: list[Blow] = []
    at = 0.0
    last = shape.requests * (1 - shape.calm_share)
    while True:
        at += chance.uniform(*shape.gaps) * shape.rate
        if at > last:
            return blows
        if not deck:
            # A deck and no dice: a run of some length has all of them.
            deck = _deck(chance, parts, shape)
            chance.shuffle(deck)
        blows.append(replace(deck.pop(), after=int(at)))


def _deck(chance: random.Random, parts: Sequence[str], shape: Shape) -> list[Blow]:
    """Each kind of blow in its share."""
    ambushed = round(shape.ambush_seconds * shape.rate)
    stopped = round(shape.stop_seconds * shape.rate)
    away = round(shape.outage_seconds * shape.rate)
    return [
        *(Blow(0, Deed.KILL, part) for part in parts),
        *(
            Blow(0, Deed.AMBUSH, part, ambushed, chance.uniform(*shape.wake_seconds))
            for part in parts
        ),
        *(Blow(0, Deed.STOP, part, stopped) for part in (*parts, ENVOY)),
        *(Blow(0, Deed.OUTAGE, lasts=away) for _ in range(OUTAGES)),
        # Rarely: it cuts everything that runs, and the ends it had not written.
        Blow(0, Deed.KILL, ENVOY),
    ]
