"""The stand-in as a process that tests start, kill and ask."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.stripe_stand_in.stand_in import StandIn

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 60.0


class StandInProcess:
    """One stand-in with a state file in `folder`; after a kill it can start again.

    It keeps its port. Whoever starts it kills it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        seed: int = 7,
        faults: float = 0.0,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.state = folder / "stripe.jsonl"
        self._log = folder / "stripe.log"
        self._port_file = folder / "stripe.port"
        self._port = port
        self._options = (
            *("--port-file", str(self._port_file), "--state", str(self.state)),
            *("--seed", str(seed), "--faults", str(faults)),
            *("--settings", json.dumps(settings or {})),
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens once it was started."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and return when it listens."""
        self._port_file.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.stripe_stand_in"),
                    *("--port", str(self._port), *self._options),
                ],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._port_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                text = self._log.read_text()
                raise RuntimeError(f"the stand-in did not start:\n{text}")
            time.sleep(0.02)
        self._port = int(self._port_file.read_text())

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def dump(self) -> dict[str, Any]:
        """Everything it saw since it was started, and all it ever took."""
        return self._control("dump", None)

    def totals(self) -> dict[tuple[str, str, int], int]:
        """What counts, from the state file: also while it is down."""
        return StandIn(self.state).totals()

    def outage(self, seconds: float | None = None) -> None:
        """Reset every connection that calls, for so long or until told: 0 ends it."""
        self._control("outage", {} if seconds is None else {"seconds": seconds})

    def change(self, **settings: Any) -> None:
        """Change settings by name."""
        self._control("settings", settings)

    def plan(self, kind: str, on: str | None = None) -> None:
        """Let the next call suffer this fault."""
        self._control("faults", {"plan": kind, "on": on})

    def advance(self, seconds: float) -> float:
        """Move its clock on; the time it is now."""
        return float(self._control("clock", {"advance": seconds})["now"])

    def add_meter(self, event_name: str) -> str:
        """Make a meter; its id."""
        return str(self._control("meters", {"event_name": event_name})["id"])

    def add_customer(self, identity: str) -> str:
        """Make a customer of this id."""
        return str(self._control("customers", {"id": identity})["id"])

    def _control(self, verb: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.url}/_stand_in/{verb}"
        with urllib.request.urlopen(url, data, timeout=30) as answer:  # noqa: S310
            result: dict[str, Any] = json.load(answer)
        return result
