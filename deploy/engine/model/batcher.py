"""In-flight batching: one iteration gives one token to every running sequence.

Knows nothing of Triton or of tokens. It runs on a thread of its own; `submit` may be
called from any other.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Protocol

CANCELLATION_CHECK_SECONDS = 0.05
"""The C++ backend looks every 100 ms; asking costs a round trip to the server."""
METRICS_SECONDS = 0.1
"""stats_check_period_ms of the C++ backend."""


class Sequence(Protocol):
    """One request inside the engine."""

    blocks: int
    prompt_tokens: int

    def begin(self) -> None:
        """Note that a slot was given."""

    def step(self) -> bool:
        """Generate one token; True when it was the last."""

    def is_cancelled(self) -> bool:
        """Ask the server whether the caller is still there."""

    def cancel(self) -> None:
        """Answer that the request was cancelled."""

    def fail(self, error: Exception) -> None:
        """Answer that the engine broke."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """Parameters of the simulation, in seconds and counts."""

    ttft: float
    prefill_per_token: float
    itl: float
    max_num_seqs: int
    kv_blocks: int


@dataclasses.dataclass(frozen=True)
class Load:
    """What the engine is busy with."""

    running: int
    prefilling: int
    waiting: int
    used_blocks: int
    iteration: int


class Batcher:
    """Schedules sequences until `stop`."""

    def __init__(self, pace: Pace, publish: Callable[[Load], None]) -> None:
        self._pace = pace
        self._publish = publish
        self._waiting: collections.deque[Sequence] = collections.deque()
        self._active: list[tuple[Sequence, float]] = []
        self._wake = threading.Event()
        self._stopped = False
        self._iteration = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="engine")

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; Triton calls this when no request is left."""
        self._stopped = True
        self._wake.set()
        self._thread.join()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; it runs as soon as a slot and its blocks are free."""
        self._waiting.append(sequence)
        self._wake.set()

    def _run(self) -> None:
        step_at = check_at = publish_at = 0.0
        while not self._stopped:
            if not self._active and not self._waiting:
                self._publish(self._load())
                publish_at = 0.0
                self._wake.wait()
                self._wake.clear()
                step_at = time.monotonic()
                continue
            now = time.monotonic()
            if now >= check_at:
                self._drop_cancelled()
                check_at = now + CANCELLATION_CHECK_SECONDS
            if now >= step_at:
                self._iterate(now)
                # Late by less than a token: the next one comes sooner, the pace holds.
                step_at = max(step_at + self._pace.itl, now)
            if now >= publish_at:
                self._publish(self._load())
                publish_at = now + METRICS_SECONDS
            time.sleep(max(0.0, min(step_at, check_at) - time.monotonic()))

    def _drop_cancelled(self) -> None:
        for sequence in list(self._waiting):
            if sequence.is_cancelled():
                self._waiting.remove(sequence)
                sequence.cancel()
        for entry in list(self._active):
            if entry[0].is_cancelled():
                self._active.remove(entry)
                entry[0].cancel()

    def _iterate(self, now: float) -> None:
        self._iteration += 1
        self._schedule(now)
        going_on = []
        for sequence, ready_at in self._active:
            try:
                if now < ready_at or not sequence.step():
                    going_on.append((sequence, ready_at))
            except Exception as error:  # noqa: BLE001 - one sequence, not the engine
                sequence.fail(error)
        self._active = going_on

    def _schedule(self, now: float) -> None:
        used = self._used_blocks()
        while self._waiting and len(self._active) < self._pace.max_num_seqs:
            used += self._waiting[0].blocks
            if used > self._pace.kv_blocks:
                break
            sequence = self._waiting.popleft()
            sequence.begin()
            prefill = self._pace.prefill_per_token * sequence.prompt_tokens
            self._active.append((sequence, now + self._pace.ttft + prefill))

    def _used_blocks(self) -> int:
        return sum(sequence.blocks for sequence, _ in self._active)

    def _load(self) -> Load:
        now = time.monotonic()
        return Load(
            running=len(self._active),
            prefilling=sum(1 for _, ready_at in self._active if now < ready_at),
            waiting=len(self._waiting),
            used_blocks=self._used_blocks(),
            iteration=self._iteration,
        )
