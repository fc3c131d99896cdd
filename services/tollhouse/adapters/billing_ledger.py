"""The billing ledger: the provider that needs no account, files with a line per chunk.

One file per day of usage (UTC). A line is written once: its identifier is looked up in
the file first, under a lock, so that two processes write it once, too; what a crash or
a full disk left of a line is cut off before the next. What is acknowledged is on the
disk.
"""

import asyncio
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tollhouse.adapters import charge_lines
from tollhouse.adapters.charge_lines import Charge, Format, Priced
from tollhouse.core.catalog import Catalog
from tollhouse.core.chunk import Answer, Attempt, Chunk, Verdict
from tollhouse.core.meter import prices
from tollhouse.core.problems import Unavailable

NAME = "ledger"

_DAY = 24 * 3600
_MOST_INDEXED = 8
"""Days whose lines are kept in memory: most chunks are of the last two."""


@dataclass(slots=True)
class _Index:
    """What a file has, up to `size` bytes."""

    size: int = 0
    charges: dict[str, Charge] = field(default_factory=dict)


class BillingLedger:
    """A folder of such files; a `core.chunk.Provider`."""

    name = NAME
    most_at_once = 100

    def __init__(
        self,
        folder: Path,
        format_: Format,
        *,
        deployment: str,
        catalog: Callable[[], Catalog],
    ) -> None:
        """Make the folder. Raises OSError where it can't be made or written."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._format = format_
        self._deployment = deployment
        self._catalog = catalog
        self._lock = (folder / ".lock").open("ab")
        # The kernel's lock is the process's: it keeps no thread of ours away.
        self._turn = threading.Lock()
        self._indexes: dict[Path, _Index] = {}

    async def ship(self, attempts: Sequence[Attempt]) -> list[Answer]:
        """Write what is not there yet. Raises Unavailable as the disk does."""
        return await asyncio.to_thread(self._write, [it.chunk for it in attempts])

    async def total(self, customer: str, event_name: str, start: int, end: int) -> int:
        """Sum of the lines of a customer and meter; raises Unavailable."""
        return await asyncio.to_thread(self._total, customer, event_name, start, end)

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.close()

    def path(self, timestamp: int) -> Path:
        """The file of the day that has this second."""
        day = datetime.fromtimestamp(timestamp, UTC).date()
        return self._folder / f"usage-{day.isoformat()}.{self._format.suffix}"

    def _write(self, chunks: Sequence[Chunk]) -> list[Answer]:
        answers = []
        with self._locked():
            lines: dict[Path, list[Chunk]] = {}
            for chunk in chunks:
                path = self.path(chunk.timestamp)
                if chunk.identifier in self._index(path).charges:
                    answers.append(Answer(Verdict.DUPLICATE))
                else:
                    lines.setdefault(path, []).append(chunk)
                    answers.append(Answer(Verdict.ACCEPTED))
            for path, new in lines.items():
                self._append(path, new)
        return answers

    def _append(self, path: Path, chunks: Sequence[Chunk]) -> None:
        index = self._index(path)
        text = "" if index.size else charge_lines.head(self._format)
        for chunk in chunks:
            priced = self._priced(chunk)
            text += charge_lines.write(priced, self._format, self._deployment)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            left = memoryview(text.encode())
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            # Nothing of them counts: a later attempt writes all of them.
            os.ftruncate(descriptor, index.size)
            raise
        finally:
            os.close(descriptor)
        if not index.size:
            _sync_folder(self._folder)
        self._read(path, index)

    def _priced(self, chunk: Chunk) -> Priced:
        catalog, window = self._catalog(), chunk.window
        model = catalog.models.get(window.model)
        price = None if model is None else prices(model)[window.token_type]
        return Priced(chunk, price, catalog.currency)

    def _total(self, customer: str, event_name: str, start: int, end: int) -> int:
        with self._locked():
            return sum(
                charge.value
                for day in range(start // _DAY, (end - 1) // _DAY + 1)
                for charge in self._index(self.path(day * _DAY)).charges.values()
                if (charge.customer, charge.event_name) == (customer, event_name)
                and start <= charge.timestamp < end
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._turn:
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                try:
                    yield
                finally:
                    fcntl.flock(self._lock, fcntl.LOCK_UN)
        except OSError as error:
            raise Unavailable(
                f"the billing ledger in {self._folder}: {error.strerror}"
            ) from error

    def _index(self, path: Path) -> _Index:
        """What the file has; read where another process wrote to it."""
        index = self._indexes.pop(path, None)
        size = path.stat().st_size if path.exists() else 0
        if index is None or size < index.size:
            index = _Index()
        if size > index.size:
            self._read(path, index)
        self._indexes[path] = index
        while len(self._indexes) > _MOST_INDEXED:
            del self._indexes[next(iter(self._indexes))]
        return index

    def _read(self, path: Path, index: _Index) -> None:
        with path.open("rb") as file:
            file.seek(index.size)
            content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, index.size + whole)  # the writer of the rest is dead
        lines = content[:whole].decode().split("\n")[:-1]
        if not index.size and self._format is Format.FOCUS:
            lines = lines[1:]
        for line in lines:
            try:
                charge = charge_lines.read(line, self._format)
            except ValueError as error:
                raise Unavailable(
                    f"{path} has a line that is none of ours: move the file away",
                    transient=False,
                ) from error
            index.charges[charge.identifier] = charge
        index.size += whole


def _sync_folder(folder: Path) -> None:
    """Make a new file's name durable too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
