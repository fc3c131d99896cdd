"""The state file: one JSON object a line, written before the answer goes out.

Written without fsync: it outlives a SIGKILL of the stand-in, not a power cut.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends to a file and reads it back; without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: int | None = None

    def load(self) -> Iterator[dict[str, Any]]:
        """What was written, in order; a torn last line is dropped."""
        if self._path is None or not self._path.exists():
            return
        for line in self._path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one line, in one piece."""
        if self._path is None:
            return
        if self._file is None:
            self._file = self._open(self._path)
        line = json.dumps({"kind": kind, **fields}).encode() + b"\n"
        os.write(self._file, line)

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @staticmethod
    def _open(path: Path) -> int:
        """Open for appending, less the half line a kill may have left."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(file, path.read_bytes().rfind(b"\n") + 1)
        return file
