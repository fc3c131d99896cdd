"""A circuit breaker: what fails all the time is left alone for a while.

    CLOSED ──▶ 10 failures within 1 s ──▶ OPEN ◀──▶ one probe per pause ──▶ CLOSED

Open, nobody calls but one probe per pause; the pause doubles with each probe that
fails, and each time the breaker opens again soon after it closed. Time is passed in:
seconds of any clock that never goes back.
"""

from collections import deque


class Permit:
    """Leave to make one call; to be reported, unless the call was given up."""

    __slots__ = ()


class Breaker:
    """Decides who may call.

    While it is open only a probe's outcome counts: calls that were under way when it
    opened say nothing about now. A probe that is never reported is replaced by the
    next after the pause, which must be longer than a call takes.
    """

    def __init__(
        self,
        *,
        failures: int = 10,
        within_seconds: float = 1.0,
        first_pause_seconds: float = 0.5,
        longest_pause_seconds: float = 2.0,
    ) -> None:
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._within = within_seconds
        self._first_pause = first_pause_seconds
        self._longest_pause = longest_pause_seconds
        self._pause = first_pause_seconds
        self._closed_at = float("-inf")
        self._next_probe_at = 0.0
        self._probe: Permit | None = None
        self.is_open = False

    def ask(self, now: float) -> Permit | None:
        """Leave to call now, or None: do without."""
        if not self.is_open:
            return _CALL
        if now < self._next_probe_at:
            return None
        self._next_probe_at = now + self._pause
        self._probe = Permit()
        return self._probe

    def succeeded(self, permit: Permit, now: float) -> None:
        """The call was answered, whatever the answer."""
        if self.is_open and permit is self._probe:
            self.is_open = False
            self._closed_at = now
            self._failed_at.clear()

    def failed(self, permit: Permit, now: float) -> None:
        """The call had no answer."""
        if self.is_open:
            if permit is self._probe:
                self._prolong(now)
            return
        failed_at = self._failed_at
        failed_at.append(now)
        if len(failed_at) == failed_at.maxlen and now - failed_at[0] <= self._within:
            self.is_open = True
            if now - self._closed_at > self._longest_pause:
                self._pause = self._first_pause
                self._next_probe_at = now + self._pause
            else:
                self._prolong(now)

    def _prolong(self, now: float) -> None:
        self._pause = min(2 * self._pause, self._longest_pause)
        self._next_probe_at = now + self._pause


_CALL = Permit()
