"""What recent exchanges were like, per level: tenant × model, tenant, model.

Many requests ask, one refresher answers, none waits for it: asking for a level that is
not known yet notes the wish and goes on without. What was learned once is kept while
nothing newer comes.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tollhouse.core.histogram import MOST_SAMPLES, Quantiles

ENOUGH_SAMPLES = 50
"""A level with fewer says nothing, the next one is asked: of so many, five are above
P90."""
MOST_LEVELS = 4096


class Level(NamedTuple):
    """Whose exchanges: of a tenant on a model; empty: of all tenants, on all models."""

    tenant: str
    model: str


class Ratio(NamedTuple):
    """A ratio of two sums over recent samples; the reference of learn.lua."""

    samples: int = 0
    part: int = 0
    whole: int = 0

    def add(self, other: "Ratio") -> "Ratio":
        """Both together; when there are too many samples, all weigh half."""
        numbers = [one + more for one, more in zip(self, other, strict=True)]
        while numbers[0] > MOST_SAMPLES:
            numbers = [number // 2 for number in numbers]
        return Ratio(*numbers)


class Learned(NamedTuple):
    """What one level has learned.

    `output`: tokens of one choice. `duration`: milliseconds from admission to the end.
    `text`: tokens (part) of bytes of prompt text (whole). `refund`: units given back
    (part) of those reserved (whole).
    """

    output: Quantiles = Quantiles()
    duration: Quantiles = Quantiles()
    text: Ratio = Ratio()
    refund: Ratio = Ratio()


_NOTHING = Learned()


class Experience:
    """What is known of the levels somebody asked for, the latest `most` of them."""

    def __init__(self, most: int = MOST_LEVELS) -> None:
        self._most = most
        self._known: dict[Level, Learned] = {}
        self._asked: dict[Level, None] = {}
        self._wishes: dict[Level, None] = {}

    def output(self, tenant: str, model: str) -> int | None:
        """P90 of the tokens of one choice, of the first level that has learned."""
        for level in (Level(tenant, model), Level(tenant, ""), Level("", model)):
            output = self._of(level).output
            if output.samples >= ENOUGH_SAMPLES:
                return output.high
        return None

    def bytes_per_token(self, model: str) -> float | None:
        """Bytes of prompt text to one token."""
        text = self._of(Level("", model)).text
        if text.samples < ENOUGH_SAMPLES or not text.part:
            return None
        return text.whole / text.part

    def duration_ms(self, tenant: str, model: str) -> int:
        """Median from admission to the end; 0: not known."""
        for learned in self._of_tenant_then_model(tenant, model):
            if learned.duration.samples >= ENOUGH_SAMPLES:
                return learned.duration.median
        return 0

    def refund_share(self, tenant: str, model: str) -> float:
        """Part of the reserved units that comes back; 0: not known."""
        for learned in self._of_tenant_then_model(tenant, model):
            refund = learned.refund
            if refund.samples >= ENOUGH_SAMPLES and refund.whole:
                return refund.part / refund.whole
        return 0.0

    @property
    def wishes(self) -> list[Level]:
        """Levels that were asked for and never learned."""
        return list(self._wishes)

    @property
    def asked(self) -> list[Level]:
        """Levels that were asked for since they were last learned."""
        return list(self._asked)

    def learn(self, levels: Mapping[Level, Learned]) -> None:
        """Take the latest; the levels nobody has asked for longest make room."""
        for level, learned in levels.items():
            self._asked.pop(level, None)
            self._wishes.pop(level, None)
            self._known.pop(level, None)
            self._known[level] = learned
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def _of_tenant_then_model(self, tenant: str, model: str) -> Iterator[Learned]:
        yield self._of(Level(tenant, model))
        yield self._of(Level("", model))

    def _of(self, level: Level) -> Learned:
        if len(self._asked) < self._most:
            self._asked[level] = None
        learned = self._known.get(level)
        if learned is None:
            if len(self._wishes) < self._most:
                self._wishes[level] = None
            return _NOTHING
        return learned
