"""What recent exchanges were like, per cohort: tenant × model, tenant, model.

Many requests ask, one refresher answers, none waits for it: asking for a cohort that is
not known yet notes the wish and goes on without. What was learned once is kept while
nothing newer comes.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from tollhouse.core.histogram import MOST_SAMPLES, Quantiles

ENOUGH_SAMPLES = 50
"""A cohort with fewer says nothing, the next one is asked: of so many, five are above
P90."""
FEW_SAMPLES = 5
"""What a median needs: without one, places are held for a whole lease while Redis is
away, so a rough one is better than none."""
MOST_COHORTS = 4096


class Cohort(NamedTuple):
    """Whose exchanges: of a tenant on a model; empty: of all tenants, on all models."""

    tenant: str
    model: str


@lru_cache(maxsize=4096)
def cohorts(tenant: str, model: str) -> tuple[Cohort, Cohort, Cohort]:
    """Find those an exchange belongs to, the narrowest first."""
    return Cohort(tenant, model), Cohort(tenant, ""), Cohort("", model)


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
    """What one cohort has learned.

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
    """What is known of the cohorts somebody asked for, the latest `most` of them."""

    def __init__(self, most: int = MOST_COHORTS) -> None:
        self._most = most
        self._known: dict[Cohort, Learned] = {}
        self._asked: dict[Cohort, None] = {}
        self._wishes: dict[Cohort, None] = {}
        self.wished: Callable[[], object] = lambda: None
        """Called whenever a level is asked for that was never learned."""

    def output(
        self, tenant: str, model: str, *, most_of_others: int | None = None
    ) -> int | None:
        """P90 of the tokens of one choice, of the first cohort that has learned.

        `most_of_others`: no more where that is the one of all tenants.
        """
        for cohort in cohorts(tenant, model):
            output = self._of(cohort).output
            if output.samples >= ENOUGH_SAMPLES:
                if cohort.tenant or most_of_others is None:
                    return output.high
                return min(output.high, most_of_others)
        return None

    def bytes_per_token(self, tenant: str, model: str) -> float | None:
        """Bytes of prompt text to one token."""
        for learned in self._of_tenant_then_model(tenant, model):
            text = learned.text
            if text.samples >= ENOUGH_SAMPLES and text.part:
                return text.whole / text.part
        return None

    def duration_ms(self, tenant: str, model: str) -> int:
        """Median from admission to the end; 0: not known."""
        for learned in self._of_tenant_then_model(tenant, model):
            if learned.duration.samples >= FEW_SAMPLES:
                return learned.duration.median
        return 0

    def refund_part(self, tenant: str, model: str) -> float:
        """Part of the reserved units that comes back; 0: not known."""
        for learned in self._of_tenant_then_model(tenant, model):
            refund = learned.refund
            if refund.samples >= ENOUGH_SAMPLES and refund.whole:
                return refund.part / refund.whole
        return 0.0

    @property
    def wishes(self) -> list[Cohort]:
        """Levels that were asked for and never learned."""
        return list(self._wishes)

    @property
    def asked(self) -> list[Cohort]:
        """Levels that were asked for since they were last learned."""
        return list(self._asked)

    def learn(self, learned: Mapping[Cohort, Learned]) -> None:
        """Take the latest; the cohorts nobody has asked for longest make room."""
        for cohort, latest in learned.items():
            self._asked.pop(cohort, None)
            self._wishes.pop(cohort, None)
            self._known.pop(cohort, None)
            self._known[cohort] = latest
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def _of_tenant_then_model(self, tenant: str, model: str) -> Iterator[Learned]:
        of_tenant, _, of_all = cohorts(tenant, model)
        yield self._of(of_tenant)
        yield self._of(of_all)

    def _of(self, cohort: Cohort) -> Learned:
        if len(self._asked) < self._most:
            self._asked[cohort] = None
        learned = self._known.get(cohort)
        if learned is None:
            if len(self._wishes) < self._most:
                self._wishes[cohort] = None
                self.wished()
            return _NOTHING
        return learned
