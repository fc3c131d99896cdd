"""The files a ledger consists of: the one Envoy writes, and those it wrote before.

A renamed file stays where its position is kept by inode: under any name in the ledger's
folder if it was read before, else under the ledger's name and `.` or `-` and more, as
logrotate and we name them.
"""

import os
import stat
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import structlog

_log = structlog.get_logger()

_ROTATED = ".rotated-"
_LOCK = ".lock"
_YOUNG_NS = 1_000_000_000
"""Far more than a tick of the kernel's clock, which file times are taken from."""


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """A regular file as it was when the folder was looked at.

    `version` differs whenever the file was written to since.
    """

    path: Path
    inode: int
    size: int
    version: tuple[int, int]
    is_current: bool
    """Whether it has the name under which Envoy opens the ledger."""

    @property
    def is_rotated(self) -> bool:
        """Whether we renamed it, so that we delete it too."""
        return _ROTATED in self.path.name


class LedgerFolder:
    """Where one ledger is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = path.parent
        self._is_irregular = False

    @property
    def lock(self) -> Path:
        """The file whose lock makes a process the ledger's one reader."""
        return self.path.with_name(self.path.name + _LOCK)

    @property
    def may_be_renamed(self) -> bool:
        """Renaming a link would leave the file where it is."""
        return not self.path.is_symlink()

    @property
    def is_absent(self) -> bool:
        """Whether nothing at all has the ledger's name."""
        return not os.path.lexists(self.path)

    def current(self) -> LedgerFile | None:
        """The file that has the ledger's name; None while there is none to read.

        Only a regular file is: `/dev/full` reads as zeros for ever.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        is_irregular = not stat.S_ISREG(status.st_mode)
        if is_irregular and not self._is_irregular:
            _log.error("ledger.irregular", path=str(self.path))
        self._is_irregular = is_irregular
        return None if is_irregular else _file(self.path, status, is_current=True)

    def files(self, known: Container[int]) -> list[LedgerFile]:
        """All files there are, the oldest first; `known` are inodes read before.

        Age is when a file was last written to: Envoy closes one before it opens the
        next. A clock that was set back only changes the order.
        """
        current = self.current()
        # By inode: a file that is renamed meanwhile may be seen under both names.
        older: dict[int, LedgerFile] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.inode() not in known and not self._is_named_so(entry.name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    path = Path(entry.path)
                    older[status.st_ino] = _file(path, status, is_current=False)
        if current is not None:
            older.pop(current.inode, None)
        by_age = sorted(older.values(), key=lambda it: (it.version[1], it.path.name))
        return by_age if current is None else [*by_age, current]

    def state(self, inode: int) -> int | None:
        """When a file came, went or was renamed here; in Unix nanoseconds.

        None where that can't be told: the ledger is no longer the file with this inode,
        or the last change is so young that another could have the same time.
        """
        try:
            is_other = self.path.stat().st_ino != inode
        except FileNotFoundError:
            return None
        changed_ns = self._folder.stat().st_mtime_ns
        is_young = time.time_ns() - changed_ns < _YOUNG_NS
        return None if is_other or is_young else changed_ns

    def set_aside(self, number: int) -> Path:
        """Rename the current file, to a name with this number or the next free one.

        Raises OSError.
        """
        while True:
            path = self.path.with_name(f"{self.path.name}{_ROTATED}{number}")
            if not os.path.lexists(path):
                break
            number += 1
        # Only the holder of the lock makes such names: nobody takes it meanwhile.
        self.path.rename(path)
        return path

    def _is_named_so(self, name: str) -> bool:
        prefix = self.path.name
        return name.startswith((prefix + ".", prefix + "-")) and name != prefix + _LOCK


def version(status: os.stat_result) -> tuple[int, int]:
    """What differs whenever a file was written to: its size, and when that was."""
    return status.st_size, status.st_mtime_ns


def _file(path: Path, status: os.stat_result, *, is_current: bool) -> LedgerFile:
    return LedgerFile(path, status.st_ino, status.st_size, version(status), is_current)
