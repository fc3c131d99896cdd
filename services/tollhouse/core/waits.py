"""When a refused exchange should find room: what Retry-After tells.

Room comes from two things. A bucket refills. And exchanges that run come to their end:
it frees their place, and gives back what was reserved and not used. When they do is
guessed from how long such exchanges take (the median): the oldest ends after that time,
plus what the ledger needs to be read; if it runs longer already, a little later than
now. After it they end one by one, twice as slowly as that median says: most durations
are skewed, their mean is over the median, and who comes too early is refused again.

Whoever is refused goes behind those who were refused before and are still to come back,
so that each finds room at his time: `promised_ms` is up to when room is promised. Those
who never asked before may take it from them, and some never come back; a promise is a
guess, not a place in a queue. One in the past counts for nothing. Nobody is told to
wait longer than LONGEST_MS, or than what is missing takes to refill, if that is more.

Times are Unix milliseconds; `waits.lua` does the same.
"""

import math
from dataclasses import dataclass

LONGEST_MS = 60_000
"""Clients honour a minute or two; and those who don't come back stand in the way of the
others for no longer."""
LEDGER_MS = 250
"""From an exchange's end to its settlement: flush and poll of the ledger, and the
script."""
UNKNOWN_MS = 1000
"""Taken for the duration of exchanges when nothing is known of it."""


@dataclass(frozen=True, slots=True)
class Running:
    """The exchanges whose ends give room.

    How many; when the oldest was made; the median of how long they take, 0 for not
    known; and what the end of one gives back to a bucket, in grains.
    """

    exchanges: int = 0
    oldest_ms: int = 0
    duration_ms: int = 0
    refund: int = 0


NOTHING = Running()


def refilled_ms(
    now_ms: int,
    promised_ms: int,
    *,
    missing: int,
    cost: int,
    rate: int,
    running: Running = NOTHING,
) -> int:
    """When `cost` fits a bucket that lacks `missing`; in grains, and grains a ms."""
    latest = max(now_ms + LONGEST_MS, now_ms + math.ceil(missing / rate))
    start, need = (promised_ms, cost) if promised_ms > now_ms else (now_ms, missing)
    due = start + math.ceil(need / rate)
    if running.refund > 0 and running.exchanges > 0 and running.duration_ms > 0:
        first = max(start, _first_end(now_ms, running))
        rest = need - rate * (first - start)
        if rest > 0:
            due = first + math.ceil(rest / (rate + running.refund / _gap(running)))
    return min(due, latest)


def free_ms(now_ms: int, promised_ms: int, running: Running) -> int:
    """When a place among the exchanges at once is free."""
    running = _guessed(running)
    due = _first_end(now_ms, running)
    if promised_ms > now_ms:
        due = max(due, promised_ms + _gap(running))
    return min(due, now_ms + LONGEST_MS)


def landed_ms(
    now_ms: int,
    promised_ms: int,
    *,
    missing: int,
    cost: int,
    in_flight: int,
    duration_ms: int,
) -> int:
    """When `missing` units of those in flight have come to their end."""
    start, need = (promised_ms, cost) if promised_ms > now_ms else (now_ms, missing)
    part = 2 * (duration_ms or UNKNOWN_MS) * min(need, in_flight) / in_flight
    return min(start + math.ceil(part), now_ms + LONGEST_MS)


def _guessed(running: Running) -> Running:
    if running.duration_ms:
        return running
    return Running(running.exchanges, running.oldest_ms, UNKNOWN_MS)


def _gap(running: Running) -> int:
    """Milliseconds from one end to the next."""
    return max(1, 2 * running.duration_ms // max(1, running.exchanges))


def _first_end(now_ms: int, running: Running) -> int:
    """When the oldest ends. In the time of three others it did in nine of ten cases."""
    ends_ms = running.oldest_ms + running.duration_ms + LEDGER_MS
    if ends_ms > now_ms:
        return ends_ms
    return now_ms + min(running.duration_ms, 3 * _gap(running))
