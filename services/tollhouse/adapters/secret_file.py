"""Files that hold a secret: who else may use them."""

import stat
from pathlib import Path


def openness(path: Path, mode: int) -> str | None:
    """What is wrong with a file whose mode lets everybody read or write it.

    With the remedy, to be put behind the file's name; None where nothing is wrong.
    """
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return None
    return (
        f"everybody on this machine can use it; run `chmod o= {path}` (Kubernetes: "
        "defaultMode 0440)"
    )
