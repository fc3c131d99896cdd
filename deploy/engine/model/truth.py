"""The truth log: what the engine did for each request, one JSON line, one write."""

import json
import os
import time


class TruthLog:
    """Appends to a file; does nothing without a path."""

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600) if path else -1

    def write(
        self, request_id: str, input_tokens: int, output_tokens: int, outcome: str
    ) -> None:
        """Write one line before the last response goes out."""
        if self._file < 0:
            return
        line = {
            "id": request_id,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "outcome": outcome,
            "at": time.time(),
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")
