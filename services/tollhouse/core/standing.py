"""How a limit stands at a moment, as an operator reads it."""

from dataclasses import dataclass

from tollhouse.core.buckets import GRAINS, Bucket, quota
from tollhouse.core.limits import Limit
from tollhouse.core.periods import period


@dataclass(frozen=True, slots=True)
class Standing:
    """Used and remaining in the limit's own measure.

    `used` of a bucket is what has not drained yet, above its burst when it is in debt;
    `remaining` is what would be admitted now. `resets_in_seconds`: until nothing is
    used any more; None where only the end of exchanges frees it.
    """

    used: int
    remaining: int
    resets_in_seconds: float | None


def standing(limit: Limit, level: int, now_ms: int) -> Standing:
    """Read a level, as `core.room` has them: a bucket's is drained up to now."""
    if limit.measure.is_bucket:
        seen = quota(Bucket.of(limit), level)
        return Standing(-(-level // GRAINS), seen.remaining, seen.reset_seconds)
    resets_in_seconds = None
    if limit.measure.is_budget:
        ends_ms = period(limit.measure, limit.zone, now_ms).ends_ms
        resets_in_seconds = (ends_ms - now_ms) / 1000
    return Standing(level, max(0, limit.value - level), resets_in_seconds)
