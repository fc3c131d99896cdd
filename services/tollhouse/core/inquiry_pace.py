"""How often one key may have a backend tell of its models: no exchange counts these.

Each worker judges by itself: what is told costs no tokens, only a server's time, and a
look into Redis would cost more than most answers.
"""

from collections import OrderedDict

from tollhouse.core.buckets import GRAINS, Bucket, correct, drain, wait_ms
from tollhouse.core.problems import Kind, Problem

PER_MINUTE = 600
AT_ONCE = 60
"""More than a client asks that looks every second whether its models are ready."""
_MOST_KEYS = 10_000
"""Whose use is remembered, those that asked last; 2 MB."""
_BUCKET = Bucket(PER_MINUTE, AT_ONCE * GRAINS)


class InquiryPace:
    """What each key has used; times are Unix milliseconds."""

    def __init__(self) -> None:
        self._used = OrderedDict[str, tuple[int, int]]()

    def take(self, key_id: str, now_ms: int) -> None:
        """Count an inquiry. Raises Problem, a 429, for one too many."""
        used, at_ms = self._used.pop(key_id, (0, now_ms))
        used = drain(used, _BUCKET.rate, now_ms - at_ms)
        wait = wait_ms(used, GRAINS, _BUCKET)
        if not wait:
            used = correct(used, GRAINS)
        self._used[key_id] = used, now_ms
        if len(self._used) > _MOST_KEYS:
            self._used.popitem(last=False)
        if wait:
            raise Problem(
                Kind.RATE_LIMITED,
                f"Ask about models {PER_MINUTE} times a minute at most.",
                headers={
                    "retry-after": str(-(-int(wait) // 1000)),
                    "retry-after-ms": str(int(wait)),
                },
            )
