"""The billing ledger: the provider that needs no account, files with a line per chunk.

One file per day of usage (UTC) and format. A line is written once: its identifier is
looked up in the day's files of every format first, under a lock, so that two processes
write it once, too; what a crash or a full disk left of a line is cut off before the
next. What is acknowledged is on the disk.
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
MOST_INDEXED = 300_000
"""Lines kept in memory, at 442 bytes each, beyond those of one day."""


@dataclass(slots=True)
class _File:
    """What a file has, up to `size` bytes."""

    path: Path
    format: Format
    size: int = 0
    charges: dict[str, Charge] = field(default_factory=dict)


_Day = dict[Format, _File]


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
        most_indexed: int = MOST_INDEXED,
    ) -> None:
        """Make the folder. Raises OSError where it can't be made or written.

        `format_` is what is written. `most_indexed`: lines kept in memory.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._format = format_
        self._deployment = deployment
        self._catalog = catalog
        self._lock = (folder / ".lock").open("ab")
        # The kernel's lock is the process's: it keeps no thread of ours away.
        self._turn = threading.Lock()
        self._most_indexed = most_indexed
        self._days: dict[int, _Day] = {}

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
        """The file that is written for the day that has this second."""
        return self._path(timestamp // _DAY, self._format)

    def _path(self, day: int, format_: Format) -> Path:
        date = datetime.fromtimestamp(day * _DAY, UTC).date()
        return self._folder / f"usage-{date.isoformat()}.{format_.suffix}"

    def _write(self, chunks: Sequence[Chunk]) -> list[Answer]:
        answers = [Answer(Verdict.ACCEPTED)] * len(chunks)
        days: dict[int, list[int]] = {}
        for at, chunk in enumerate(chunks):
            days.setdefault(chunk.timestamp // _DAY, []).append(at)
        with self._locked():
            for number, places in days.items():
                day = self._day(number)
                new = []
                for at in places:
                    if any(chunks[at].identifier in it.charges for it in day.values()):
                        answers[at] = Answer(Verdict.DUPLICATE)
                    else:
                        new.append(chunks[at])
                if new:
                    self._append(day[self._format], new)
        return answers

    def _append(self, file: _File, chunks: Sequence[Chunk]) -> None:
        text = "" if file.size else charge_lines.head(self._format)
        for chunk in chunks:
            priced = self._priced(chunk)
            text += charge_lines.write(priced, self._format, self._deployment)
        descriptor = os.open(file.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            left = memoryview(text.encode())
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            # Nothing of them counts: a later attempt writes all of them.
            os.ftruncate(descriptor, file.size)
            raise
        finally:
            os.close(descriptor)
        if not file.size:
            _sync_folder(self._folder)
        _read(file)

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
                for file in self._day(day).values()
                for charge in file.charges.values()
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

    def _day(self, number: int) -> _Day:
        """What a day's files have; read where another process wrote to them."""
        # A broken file is not kept: it is read from its beginning the next time.
        day = self._days.pop(number, {})
        for format_ in Format:
            day[format_] = _brought_up(
                day.get(format_) or _File(self._path(number, format_), format_)
            )
        self._days[number] = day
        lines = sum(map(_lines, self._days.values()))
        while lines > self._most_indexed and len(self._days) > 1:
            lines -= _lines(self._days.pop(next(iter(self._days))))
        return day


def _lines(day: _Day) -> int:
    return sum(len(it.charges) for it in day.values())


def _brought_up(file: _File) -> _File:
    size = file.path.stat().st_size if file.path.exists() else 0
    if size < file.size:
        file = _File(file.path, file.format)
    if size > file.size:
        _read(file)
    return file


def _read(file: _File) -> None:
    """Take in what the file has more. Raises Unavailable for what is none of ours."""
    with file.path.open("rb") as opened:
        opened.seek(file.size)
        content = opened.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(file.path, file.size + whole)  # the writer of the rest is dead
    lines = content[:whole].split(b"\n")[:-1]
    if not file.size and file.format is Format.FOCUS:
        lines = lines[1:]
    for line in lines:
        try:
            charge = charge_lines.read(line.decode(), file.format)
        except ValueError as error:
            raise Unavailable(
                f"{file.path} has a line that is none of ours: move the file away",
                transient=False,
            ) from error
        file.charges[charge.identifier] = charge
    file.size += whole


def _sync_folder(folder: Path) -> None:
    """Make a new file's name durable too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
