"""What Redis stores of exchanges, slot by slot: read, written, given back."""

from collections.abc import Sequence
from dataclasses import replace

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.client import (
    Argument,
    Observe,
    Redis,
    Reply,
    Run,
    run_all,
)
from tollhouse.adapters.redis.connection import failure
from tollhouse.adapters.redis.steps import RELEASED_MS, Steps, Writing
from tollhouse.adapters.redis.stored import Stored
from tollhouse.core.exchange import Settlement, nothing_used
from tollhouse.core.problems import ProtocolError
from tollhouse.core.usage import Facts

BATCH_SECONDS = 2.0
"""Budget of a batch behind the requests; nobody waits for it."""

Located = tuple[int, str]
"""Slot and id of an exchange."""
Written = tuple[Writing, Settlement]
"""A step and what its record says."""


class Exchanges:
    """The stored exchanges, many at a time; on Unavailable repeat the whole."""

    def __init__(self, redis: Redis, steps: Steps) -> None:
        self._redis = redis
        self._steps = steps

    async def release(
        self,
        places: Sequence[Located],
        *,
        kept_ms: int = RELEASED_MS,
        observe: Observe | None = None,
    ) -> list[Settlement]:
        """Give back what exchanges hold; returns those that a reaper had billed."""
        steps, written = self._steps, list[Settlement]()
        known: list[Facts | None] = [None] * len(places)
        while places:
            replies = await self.run(
                [
                    steps.release(*place, facts, kept_ms)
                    for place, facts in zip(places, known, strict=True)
                ],
                observe,
            )
            held = [
                place
                for place, reply in zip(places, replies, strict=True)
                if reply in (_REAPED, _RESERVED)
            ]
            places, known, taken_back = [], [], []
            for place, stored in zip(held, await self.stored(held), strict=True):
                if stored is None or stored.facts is None:
                    continue  # Over since; whoever ended it did what there was to do.
                if stored.state == "R":
                    places.append(place)
                    known.append(stored.facts)
                else:
                    slot, exchange_id = place
                    nothing = nothing_used(
                        exchange_id, stored.facts, stored.started_ms, stored.ended_ms
                    )
                    taken_back.append((steps.settle(slot, nothing), nothing))
            written += await self.write(taken_back)
        return written

    async def write(self, writings: Sequence[Written]) -> list[Settlement]:
        """Run what writes records, again where the script names another hour."""
        written = []
        while writings:
            replies = await self.run([it.run(it.hour) for it, _ in writings])
            again = []
            for (writing, of), reply in zip(writings, replies, strict=True):
                if reply == 1 and writing.hour is not None:
                    written.append(of)
                elif reply < 0:
                    again.append((replace(writing, hour=-reply), of))
            writings = again
        return written

    async def run(
        self, runs: Sequence[Run], observe: Observe | None = None
    ) -> list[Reply]:
        """Run scripts in one round trip."""
        return await run_all(
            self._redis, runs, budget_seconds=BATCH_SECONDS, observe=observe
        )

    async def stored(self, places: Sequence[Located]) -> list[Stored | None]:
        """What is kept of each; None where nothing is."""
        keys = [shards.exchange(slot, exchange_id) for slot, exchange_id in places]
        texts = await self.ask([("GET", key) for key in keys])
        return [None if text is None else _read(text) for text in texts]

    async def ask(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Send commands in one round trip; raises on the first that Redis refused."""
        replies = await self._redis.call_many(commands, budget_seconds=BATCH_SECONDS)
        for reply in replies:
            if isinstance(reply, Exception):
                raise failure(reply)
        return replies


def _read(text: bytes) -> Stored:
    try:
        return Stored.parse(text)
    except ProtocolError:  # not ours: as if nothing but its key were there
        return Stored("")


_REAPED, _RESERVED = 2, 3
"""Replies of RELEASE that ask for more."""
