"""Lines of our own beside Envoy's ledger: exchanges that no reservation knows of.

While Redis is away a worker admits by itself, and Envoy writes its first line of an
exchange five seconds later, or at its end. An Envoy that dies before would leave no
trace of it. So the worker writes one first, into a file of its own that whoever reads
the ledger reads too (adapters.ledger_files): Envoy's file is Envoy's alone, or the
rotation could not tell that Envoy has turned to a new one.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import structlog

TURN_SECONDS = 5.0
"""How long a file is written to; then it is left to be read and deleted."""

_ODD = re.compile(r"[^A-Za-z0-9._-]")

_log = structlog.get_logger()


class AdmissionNotes:
    """The notes of one worker. Costs nothing where nothing is noted."""

    def __init__(
        self,
        ledger: Path,
        worker: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`worker` is a name no other process has that writes beside this ledger."""
        name = _ODD.sub("_", worker)
        self._path = ledger.with_name(f"{ledger.name}-admitted-{name}")
        self._rotated = f"{ledger.name}.rotated-{{}}-{name}"
        self._clock = clock
        self._descriptor: int | None = None
        self._began = 0.0

    def note(self, line: bytes) -> None:
        """Write a line, newline excluded, so that it outlives this process.

        Where it can't be written the exchange is admitted all the same: it is lost only
        if Envoy dies in its first seconds, too.
        """
        try:
            os.write(self._open(), line + b"\n")
        except OSError as error:
            _log.error("admission.unnoted", reason=error.strerror)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        now = self._clock()
        if self._descriptor is None or now - self._began > TURN_SECONDS:
            self.close()
            # Nobody else writes to it, so once it has this name it is complete.
            if self._path.exists():
                self._path.rename(
                    self._path.with_name(self._rotated.format(time.time_ns()))
                )
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o640)
            self._began = now
        return self._descriptor
