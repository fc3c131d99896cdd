"""The admission proof: the header value that opens Envoy's routes to backends.

Envoy's configuration and extproc get it from the same file.
"""

import re
from pathlib import Path

# A header value nobody guesses and every proxy takes.
_PROOF = re.compile(rb"[A-Za-z0-9_-]{32,256}")


def read_proof(path: Path) -> str:
    """Read it. Raises ValueError, worded for operators, for a file that has none."""
    try:
        proof = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"can't read {path}: {error.strerror}") from error
    if not _PROOF.fullmatch(proof):
        raise ValueError(
            f"{path} must hold 32 to 256 of A-Z a-z 0-9 _ -, the value Envoy's backend"
            " routes require; removed, it is drawn anew when Envoy's file is rendered"
        )
    return proof.decode("ascii")
