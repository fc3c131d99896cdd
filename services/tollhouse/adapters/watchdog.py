"""A time limit on each of many waits, for less than a timer each."""

import asyncio
from collections.abc import Callable


class Watchdog:
    """Calls back when one wait takes too long: one timer for a whole stream.

    A timer per token would cost more than the token.
    """

    def __init__(self, bark: Callable[[], object], seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._bark = bark
        self._seconds = seconds
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False

    def wait(self) -> None:
        """Begin to wait."""
        self._deadline = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._look)

    def rest(self, seconds: float) -> None:
        """Stop waiting; the next wait may take this long."""
        self._deadline = None
        if seconds < self._seconds and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._seconds = seconds

    def stop(self) -> None:
        """Stop for good."""
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._deadline is None:
            return  # the next wait arms it again
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
            return
        self.expired = True
        self._bark()
