"""How fast the provider is called: evenly, and hardly at all while it fails.

The provider's limit is for everything that uses the account, so ours is well below it.
While call after call fails, one is tried per pause: a provider that comes back must not
be met by all that has piled up, nor be asked in vain a hundred times a second.
"""

import asyncio

FAILURES = 8
"""In a row, after which pauses begin; a flaky provider has fewer."""
FIRST_PAUSE_SECONDS = 0.5


class Pace:
    """Leave to call the provider; shared by all that do."""

    def __init__(
        self, calls_per_second: float, *, longest_pause_seconds: float
    ) -> None:
        self._interval = 1 / calls_per_second
        self._longest_pause = longest_pause_seconds
        self._pause = FIRST_PAUSE_SECONDS
        self._failures = 0
        self._last_at = float("-inf")
        self._turn = asyncio.Lock()
        self._recovered = asyncio.Event()

    async def wait(self) -> None:
        """Return when the next call may be made."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            while (left := self._last_at + self._spacing - loop.time()) > 0:
                self._recovered.clear()
                try:
                    async with asyncio.timeout(left):
                        await self._recovered.wait()
                except TimeoutError:
                    break
            self._last_at = loop.time()

    @property
    def is_failing(self) -> bool:
        """Whether call after call failed."""
        return self._failures >= FAILURES

    @property
    def _spacing(self) -> float:
        return self._pause if self.is_failing else self._interval

    def succeeded(self) -> None:
        """The provider answered, whatever it said about a chunk."""
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._recovered.set()

    def failed(self) -> None:
        """It did not answer, or could do nothing."""
        if self.is_failing:
            self._pause = min(self._longest_pause, self._pause * 2)
        self._failures += 1
