"""The stand-in's own time, so that tests reach what happens after 24 hours."""

import time


class Clock:
    """The machine's time plus an offset, in Unix seconds."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def now(self) -> float:
        """Unix seconds by this clock."""
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        """Move it on; negative: back."""
        self.offset += seconds

    def set(self, unix: float) -> None:
        """Make it this time; it goes on from there."""
        self.offset = unix - time.time()
