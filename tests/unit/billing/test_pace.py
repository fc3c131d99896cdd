"""How fast the provider is called; time is the loop's, and jumps."""

import asyncio
import selectors
from itertools import pairwise

import pytest

from tollhouse.billing.pace import FAILURES, FIRST_PAUSE_SECONDS, Pace


class _Selector(selectors.DefaultSelector):
    """Instead of waiting it lets the loop's time pass."""

    passed = 0.0

    def select(self, timeout=None):
        if timeout:
            self.passed += timeout
        return super().select(0)


def run(main):
    """Run on a loop whose clock moves only while it would sleep."""
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.passed  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)


async def waits(pace, count):
    """When each of the next calls may be made."""
    loop = asyncio.get_running_loop()
    found = []
    for _ in range(count):
        await pace.wait()
        found.append(round(loop.time(), 3))
    return found


def failing(pace):
    for _ in range(FAILURES):
        pace.failed()


def test_calls_are_spread_evenly():
    async def main():
        return await waits(Pace(10, longest_pause_seconds=60), 4)

    assert [0.0, 0.1, 0.2, 0.3] == run(main())


def test_who_waits_at_once_goes_one_after_the_other():
    async def main():
        pace = Pace(10, longest_pause_seconds=60)
        return await asyncio.gather(*(waits(pace, 1) for _ in range(3)))

    assert [[0.0], [0.1], [0.2]] == run(main())


def test_a_few_failures_change_nothing():
    """A flaky provider still answers most of the time."""

    async def main():
        pace = Pace(10, longest_pause_seconds=60)
        for _ in range(FAILURES - 1):
            pace.failed()
        pace.succeeded()
        pace.failed()
        return pace.is_failing, await waits(pace, 2)

    assert (False, [0.0, 0.1]) == run(main())


def test_while_it_fails_one_is_tried_per_pause():
    """Which doubles with each that fails, up to the longest."""

    async def main():
        pace = Pace(10, longest_pause_seconds=3)
        failing(pace)
        found = []
        for _ in range(5):
            found += await waits(pace, 1)
            pace.failed()
        return [round(b - a, 3) for a, b in pairwise(found)]

    first = FIRST_PAUSE_SECONDS
    assert [first * 2, first * 4, 3, 3] == run(main())


def test_who_waits_for_a_pause_goes_on_when_it_is_back():
    async def main():
        pace = Pace(10, longest_pause_seconds=60)
        failing(pace)
        await pace.wait()
        for _ in range(8):
            pace.failed()
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(waits(pace, 1))
        loop.call_later(1, pace.succeeded)
        return await waiting

    assert [1.0] == run(main())


@pytest.mark.parametrize("rate", [0.5, 100])
def test_the_rate_is_a_setting(rate):
    async def main():
        return await waits(Pace(rate, longest_pause_seconds=60), 3)

    assert [0.0, 1 / rate, 2 / rate] == run(main())
