"""What changes when a file is replaced, written to, or opened to others."""

from pathlib import Path

Stamp = tuple[int, ...]
"""Device, inode, time, size and mode of a file; empty: there is none."""


def stamp_of(path: Path) -> Stamp:
    """The stamp of the file that a path leads to, through links."""
    try:
        found = path.stat()
    except OSError:  # the reading says why
        return ()
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)
