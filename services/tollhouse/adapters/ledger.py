"""Reads the ledger that Envoy appends to, from positions that are kept.

A position is how far one file was read. It only ever moves over whole lines, and the
caller commits it after what the lines ask for is done: a reader that dies is followed
by one that does the same again, which every step of settlement allows. There is a
position for each file, so that no order of renaming, dying and deleting loses a line: a
file that nobody has a position for is read from its start.
"""

import fcntl
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from tollhouse.adapters.ledger_files import LedgerFile, LedgerFolder, version

_log = structlog.get_logger()

CHUNK_BYTES = 1 << 18
"""Most bytes handed out at once: bounds memory and the size of one settlement."""
TAIL_BYTES = 1024
"""About a line: no two are alike."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file was read, and a digest of what stands right before.

    An inode and an offset would not tell a file from one that was truncated and grew
    beyond the offset, or that got the inode of a deleted one. Two files do not have
    the same last line in the same position.
    """

    offset: int
    digest: str

    @classmethod
    def after(cls, offset: int, tail: bytes) -> Self:
        """The position behind `tail`, which is TAIL_BYTES long or starts the file."""
        return cls(offset, hashlib.blake2b(tail, digest_size=12).hexdigest())


START = Position.after(0, b"")


class LedgerReader:
    """One reader of one ledger; `lock` keeps the others away.

    The lock is the kernel's (flock), so it is gone with its holder and needs no
    Redis. All workers of one Envoy share the file's folder.
    """

    def __init__(self, path: Path) -> None:
        self.folder = LedgerFolder(path)
        self._lock_file = self.folder.lock.open("ab")
        self.is_locked = False
        """Whether we are the one reader."""
        self._descriptor: int | None = None
        self._inode = 0
        self._positions: dict[int, Position] = {}
        self._committed: dict[int, Position] = {}
        self._exhausted: dict[int, tuple[int, int]] = {}
        """Versions of the files that had no further whole line then."""
        self._foreign: set[int] = set()
        """Siblings that are no ledgers, such as compressed ones."""
        self._ended: set[int] = set()
        """Files that nobody writes to any more."""
        self._alone: tuple[int, int] | None = None
        """The file that is followed and the state of its folder, where it is alone."""

    def lock(self) -> bool:
        """Become the one reader, if nobody is. Never waits."""
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.is_locked = True
        return True

    @property
    def is_following(self) -> bool:
        """Whether a file was read from, which may have lost its name since."""
        return self._descriptor is not None

    def seek(self, positions: Mapping[int, Position]) -> None:
        """Start from the committed positions, by inode."""
        self._leave()
        self._positions = dict(positions)
        self._committed = dict(positions)
        self._exhausted.clear()

    def read(self) -> list[bytes]:
        """Whole lines behind a file's position, newlines cut, and move past them.

        Empty when there is nothing new in any file. At most CHUNK_BYTES, unless one
        line is longer. A file that was replaced is read to its end, then its
        successor; one that was truncated from its start.
        """
        lines = self._follow()
        if lines or self._is_alone():
            return lines
        for file in self._files():
            if self._exhausted.get(file.inode) == file.version:
                continue
            # A successor is written to, so Envoy has left the old file by now: what
            # that still holds is all of it, also when its name is gone.
            lines = self._follow() or self._turn_to(file)
            if lines:
                return lines
        return []

    def uncommitted(self) -> dict[int, Position | None]:
        """The positions to commit, by inode; None for a file that is gone."""
        moved: dict[int, Position | None] = {
            inode: position
            for inode, position in self._positions.items()
            if self._committed.get(inode) != position
        }
        gone = self._committed.keys() - self._positions.keys()
        return moved | dict.fromkeys(gone)

    def commit(self, positions: Mapping[int, Position | None]) -> None:
        """Take note that these are committed."""
        for inode, position in positions.items():
            if position is None:
                self._committed.pop(inode, None)
            else:
                self._committed[inode] = position

    def lag(self) -> int | None:
        """Bytes not committed yet; None for others than the reader. For any thread."""
        if not self.is_locked:
            return None
        return sum(
            max(0, file.size - self._committed.get(file.inode, START).offset)
            for file in self.folder.files(self._committed)
            if file.inode not in self._foreign
        )

    def has_finished(self, file: LedgerFile) -> bool:
        """Whether all that is in a file is settled and committed."""
        position = self._committed.get(file.inode, START)
        is_exhausted = self._exhausted.get(file.inode) == file.version
        return is_exhausted and position.offset == file.size

    def end(self, file: LedgerFile) -> None:
        """Read what is left of a file that nobody writes to any more.

        A last line without its newline will get none: it is handed out as it is.
        """
        self._ended.add(file.inode)
        self._exhausted.pop(file.inode, None)

    def forget(self, file: LedgerFile) -> None:
        """Keep nothing of a file that is deleted: another may get its inode."""
        if file.inode == self._inode:
            self._leave()
        self._positions.pop(file.inode, None)
        self._exhausted.pop(file.inode, None)
        self._ended.discard(file.inode)

    def close(self) -> None:
        """Let go of the file and the lock."""
        self._leave()
        self._lock_file.close()
        self.is_locked = False

    def _is_alone(self) -> bool:
        """Whether nothing has come to the folder since it had one file, ours."""
        if self._alone is None:
            return False
        inode, state = self._alone
        return inode == self._inode and state == self.folder.state(inode)

    def _files(self) -> list[LedgerFile]:
        state = self.folder.state(self._inode)  # first: what comes meanwhile is seen
        files = self.folder.files(self._positions)
        is_alone = [file.inode for file in files] == [self._inode]
        self._alone = (self._inode, state) if is_alone and state is not None else None
        present = {file.inode for file in files} | {self._inode}
        for known in (self._positions, self._exhausted):
            for inode in known.keys() - present:
                del known[inode]
        self._foreign &= present
        self._ended &= present
        return files

    def _follow(self) -> list[bytes]:
        if self._descriptor is None:
            return []
        return self._next_lines(self._descriptor, os.fstat(self._descriptor))

    def _turn_to(self, file: LedgerFile) -> list[bytes]:
        """The next lines of a file, which is followed from then on if it has any."""
        try:
            # A FIFO that got the name meanwhile would wait for a writer.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(file.path, flags)
        except FileNotFoundError:
            return []
        except OSError as error:
            if file.is_current:
                raise
            _log.error("ledger.unreadable", path=str(file.path), reason=error.strerror)
            self._exhausted[file.inode] = file.version
            return []
        status = os.fstat(descriptor)
        lines: list[bytes] = []
        if self._is_ledger(descriptor, status, file):
            lines = self._next_lines(descriptor, status)
        if not lines:
            os.close(descriptor)
            return []
        self._leave()
        self._descriptor, self._inode = descriptor, status.st_ino
        return lines

    def _is_ledger(
        self, descriptor: int, status: os.stat_result, file: LedgerFile
    ) -> bool:
        if not stat.S_ISREG(status.st_mode):
            return False
        inode = status.st_ino
        if file.is_current or file.is_rotated or inode in self._positions:
            return True
        if os.pread(descriptor, 1, 0) in (b"{", b""):
            self._foreign.discard(inode)
            return True
        self._foreign.add(inode)
        self._exhausted[inode] = version(status)
        return False

    def _next_lines(self, descriptor: int, status: os.stat_result) -> list[bytes]:
        inode = status.st_ino
        if self._exhausted.get(inode) == version(status):
            return []
        position = self._positions.get(inode, START)
        content, end = _whole_lines(descriptor, position.offset)
        # After the content: a truncation in between must not go unseen.
        before = min(position.offset, TAIL_BYTES)
        tail = os.pread(descriptor, before, position.offset - before)
        if position != Position.after(position.offset, tail):
            size = status.st_size
            _log.warning(
                "ledger.truncated", inode=inode, offset=position.offset, size=size
            )
            self._positions[inode] = START
            return self._next_lines(descriptor, status)
        if end:
            lines = content[: end - 1].split(b"\n")
        elif content and inode in self._ended:
            end, lines = len(content), [content]
        else:
            self._exhausted[inode] = version(status)
            return []
        self._positions[inode] = Position.after(
            position.offset + end,
            (tail + content[max(0, end - TAIL_BYTES) : end])[-TAIL_BYTES:],
        )
        return lines

    def _leave(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor, self._inode = None, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _whole_lines(descriptor: int, offset: int) -> tuple[bytes, int]:
    """What stands behind an offset, and where in it the last whole line ends."""
    size = CHUNK_BYTES
    while True:
        content = os.pread(descriptor, size, offset)
        end = content.rfind(b"\n") + 1
        if end or len(content) < size:
            return content, end
        size *= 2
