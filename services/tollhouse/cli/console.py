"""What a person reads in the terminal: plain lines, colours only where they show."""

import os
import sys
from pathlib import Path
from typing import TextIO

_BOLD, _RED, _YELLOW, _GREEN, _DIM, _RESET = (
    f"\x1b[{code}m" for code in (1, 31, 33, 32, 2, 0)
)

_BAR = 40


class Console:
    """Writes lines to a stream and goes on when nobody reads it any more."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._colours = self._stream.isatty() and "NO_COLOR" not in os.environ

    def line(self, text: str = "") -> None:
        """Write one line at once, so that a pipe shows progress too."""
        try:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            # `tollhouse up | head`: the reader left, the gateway stays.
            self._stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - kept
            self._colours = False

    def step(self, name: str, what: str) -> None:
        """Report a part of a longer job as done."""
        self.line(f"  {self._paint(_GREEN, f'{name:<12}')} {what}")

    def progress(self, name: str, share: float) -> None:
        """Show how much of a longer job is done; nothing where nobody watches."""
        if self._stream.isatty():
            full = round(share * _BAR)
            bar = f"{'#' * full}{'.' * (_BAR - full)}"
            done = share >= 1
            self._stream.write(f"\r  {name:<12} {bar} {share:4.0%}{chr(10) * done}")
            self._stream.flush()

    def warning(self, text: str) -> None:
        """Report what is no reason to give up: one line, first word `warning:`."""
        self.line(f"{self._paint(_YELLOW, 'warning:')} {text}")

    def error(self, text: str) -> None:
        """Report why the command gives up: one line, first word `error:`."""
        self.line(f"{self._paint(_RED, 'error:')} {text}")

    def bold(self, text: str) -> str:
        """Make text stand out where the stream can show it."""
        return self._paint(_BOLD, text)

    def dim(self, text: str) -> str:
        """Make text step back where the stream can show it."""
        return self._paint(_DIM, text)

    def red(self, text: str) -> str:
        """Mark what failed where the stream can show it."""
        return self._paint(_RED, text)

    def _paint(self, code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if self._colours else text
