"""What an Idempotency-Key remembers: the first answer, failures of v1 included."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

from tests.stripe_stand_in.clock import Clock
from tests.stripe_stand_in.journal import Journal
from tests.stripe_stand_in.meter_events import DAY
from tests.stripe_stand_in.refusals import Refusal, conflict

_LONGEST = 255


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A first answer."""

    fingerprint: str
    status: int
    body: dict[str, Any]
    headers: dict[str, str]
    at: float


class Replays:
    """Kept for 24 hours by the stand-in's clock, on disk too."""

    def __init__(self, clock: Clock, journal: Journal) -> None:
        self._clock = clock
        self._journal = journal
        self._stored: dict[str, Stored] = {}
        self._running: set[str] = set()

    def load(self, line: dict[str, Any]) -> None:
        """Take one line of the state file."""
        self._stored[line["key"]] = Stored(**line["stored"])

    def find(self, key: str, fingerprint: str) -> Stored | None:
        """The answer to replay; raises Refusal for other parameters."""
        if len(key) > _LONGEST:
            raise _refused(f"An Idempotency-Key has at most {_LONGEST} characters.")
        stored = self._stored.get(key)
        if stored is None or self._clock.now() - stored.at >= DAY:
            return None
        if stored.fingerprint != fingerprint:
            raise _refused(
                "Keys for idempotent requests can only be used with the same parameters"
                f" they were first used with. Try using a key other than '{key}'."
            )
        return stored

    @contextlib.contextmanager
    def running(self, key: str | None) -> Iterator[None]:
        """Hold the key while its call runs; raises Refusal if another one does."""
        if key is None:
            yield
            return
        if key in self._running:
            raise conflict(
                "idempotency_key_in_use",
                "There is currently another in-progress request using this"
                " Idempotency-Key.",
                "key_in_use",
            )
        self._running.add(key)
        try:
            yield
        finally:
            self._running.discard(key)

    def store(
        self,
        key: str,
        fingerprint: str,
        *,
        status: int,
        body: dict[str, Any],
        headers: dict[str, str],
    ) -> None:
        """Remember an answer."""
        stored = Stored(fingerprint, status, body, headers, self._clock.now())
        self._stored[key] = stored
        fields = {name: getattr(stored, name) for name in Stored.__slots__}
        self._journal.append("replay", key=key, stored=fields)


def fingerprint(method: str, path: str, body: bytes) -> str:
    """What tells requests with the same key apart."""
    return hashlib.sha256(f"{method} {path}\n".encode() + body).hexdigest()


def _refused(message: str) -> Refusal:
    return Refusal(400, "idempotency_error", message, stored=False, outcome="key_reuse")
