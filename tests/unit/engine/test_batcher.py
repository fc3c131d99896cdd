"""In-flight batching: slots, blocks, order, and requests that leave."""

import threading
import time
from typing import Any

import pytest

from tests.unit.engine.load import engine_module

batcher = engine_module("batcher")


class FakeSequence:
    """Takes a number of steps; notes what happened to it."""

    def __init__(self, steps: int, blocks: int = 1, *, breaks_at: int = -1) -> None:
        self.blocks = blocks
        self.prompt_tokens = 0
        self.taken = 0
        self.gone = False
        self.end = ""
        self.ended = threading.Event()
        self.begun_at = 0.0
        self._steps = steps
        self._breaks_at = breaks_at

    def begin(self) -> None:
        """Note the time."""
        self.begun_at = time.monotonic()

    def step(self) -> bool:
        """Take one step."""
        if self.taken == self._breaks_at:
            raise RuntimeError("broken")
        self.taken += 1
        if self.taken == self._steps:
            self._finish("done")
        return self.taken == self._steps

    def is_cancelled(self) -> bool:
        """Whether the test said so."""
        return self.gone

    def cancel(self) -> None:
        """Note it."""
        self._finish("cancelled")

    def fail(self, error: Exception) -> None:
        """Note it."""
        self._finish(str(error))

    def _finish(self, end: str) -> None:
        self.end = end
        self.ended.set()


@pytest.fixture
def engine():
    """Return a function that starts a batcher; all are stopped."""
    running = []

    def start(**pace):
        values = {
            "ttft": 0.0,
            "prefill_per_token": 0.0,
            "itl": 0.002,
            "max_num_seqs": 2,
            "kv_blocks": 10,
        } | pace
        loads: list[Any] = []
        started = batcher.Batcher(batcher.Pace(**values), loads.append)
        started.start()
        running.append(started)
        return started, loads

    yield start
    for started in running:
        started.stop()


def test_slots_are_shared_in_order(engine):
    """The third waits until one of the first two is done."""
    running, loads = engine()
    sequences = [FakeSequence(20), FakeSequence(60), FakeSequence(5)]
    for sequence in sequences:
        running.submit(sequence)
    for sequence in sequences:
        assert sequence.ended.wait(30)

    assert [sequence.end for sequence in sequences] == ["done"] * 3
    assert sequences[2].begun_at > sequences[0].begun_at
    assert max(load.running for load in loads) == 2
    deadline = time.monotonic() + 30
    while loads[-1].running:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert loads[-1].waiting == 0


def test_blocks_are_a_limit_too(engine):
    """A free slot is no use without room in the KV cache."""
    running, _ = engine()
    big, other = FakeSequence(20, blocks=8), FakeSequence(1, blocks=3)
    running.submit(big)
    running.submit(other)
    assert other.ended.wait(30)

    assert big.ended.is_set()


@pytest.mark.timed
@pytest.mark.parametrize("queued", [True, False])
def test_leaving_is_noticed(engine, *, queued: bool):
    """Running or queued, within a twentieth of a second and a bit."""
    running, _ = engine(max_num_seqs=1, itl=0.5)
    holder, leaver = FakeSequence(1000), FakeSequence(1000)
    if queued:
        running.submit(holder)
    running.submit(leaver)
    time.sleep(0.1)
    leaver.gone = True
    left_at = time.monotonic()
    assert leaver.ended.wait(30)

    assert leaver.end == "cancelled"
    assert time.monotonic() - left_at < 0.15


def test_one_failure_is_not_everybodys(engine):
    """A sequence that breaks leaves the others running."""
    running, _ = engine()
    broken, sound = FakeSequence(10, breaks_at=3), FakeSequence(10)
    running.submit(broken)
    running.submit(sound)

    assert broken.ended.wait(30)
    assert sound.ended.wait(30)
    assert (broken.end, sound.end) == ("broken", "done")


@pytest.mark.timed
def test_the_pace_holds(engine):
    """Tokens that are late by a little do not add up."""
    running, _ = engine(itl=0.005)
    sequence = FakeSequence(100)
    started = time.monotonic()
    running.submit(sequence)
    assert sequence.ended.wait(30)

    assert 0.49 <= time.monotonic() - started < 0.7
