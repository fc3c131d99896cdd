"""Reads the ledger file that Envoy appends to, from a position that is kept.

A position is (inode, offset). It only ever moves over whole lines, and the caller
commits it after what the lines ask for is done: a reader that dies is followed by
one that does the same again, which every step of settlement allows.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

CHUNK_BYTES = 1 << 18
"""Most bytes handed out at once: bounds memory and the size of one settlement."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a ledger file was read; the inode tells a file from its successor."""

    inode: int
    offset: int


class LedgerReader:
    """One reader of one ledger; `lock` keeps the others away.

    The lock is the kernel's (flock), so it is gone with its holder and needs no
    Redis. All workers of one Envoy share the file's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_file = path.with_name(path.name + ".lock").open("ab")
        self._descriptor: int | None = None
        self.position = Position(0, 0)

    def lock(self) -> bool:
        """Become the one reader, if nobody is. Never waits."""
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def seek(self, position: Position) -> None:
        """Start from a committed position; another inode's counts from 0."""
        self._close()
        self.position = position

    def read(self) -> list[bytes]:
        """The whole lines behind the position, newlines cut, and move past them.

        Empty when there is nothing new. At most CHUNK_BYTES, unless one line is
        longer. A file that was replaced is read to its end, then its successor; one
        that was truncated from its start.
        """
        lines = self._next_lines()
        if lines or not self._is_over():
            return lines
        # Envoy has left the old file by now: what it still holds is all of it.
        lines = self._next_lines()
        if lines:
            return lines
        self._close()
        return self._next_lines()

    def _is_over(self) -> bool:
        """Whether Envoy writes elsewhere: to another file, or before our position."""
        if self._descriptor is None:
            return False
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return False  # Envoy still has it open, as we have.
        if status.st_ino == self.position.inode:
            return status.st_size < self.position.offset
        # While it is empty its lines may still go to the old one.
        return status.st_size > 0

    def _next_lines(self) -> list[bytes]:
        descriptor = self._open()
        if descriptor is None:
            return []
        offset = self.position.offset
        size = CHUNK_BYTES
        while True:
            content = os.pread(descriptor, size, offset)
            end = content.rfind(b"\n") + 1
            if end or len(content) < size:
                break
            size *= 2
        self.position = Position(self.position.inode, offset + end)
        return content[: end - 1].split(b"\n") if end else []

    def close(self) -> None:
        """Let go of the file and the lock."""
        self._close()
        self._lock_file.close()

    def _open(self) -> int | None:
        if self._descriptor is None:
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            status = os.fstat(descriptor)
            known = self.position
            if known.inode != status.st_ino or known.offset > status.st_size:
                self.position = Position(status.st_ino, 0)
            self._descriptor = descriptor
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
