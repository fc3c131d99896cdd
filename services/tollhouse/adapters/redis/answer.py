"""What RESERVE answers, read back into limits and debits."""

import math
from dataclasses import dataclass

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.client import Reply
from tollhouse.adapters.redis.steps import Side
from tollhouse.core.limits import Debit
from tollhouse.core.usage import decode_facts

OVER, STALE = -1, -2
"""Verdicts that end a reservation, and that ask for a repeat with the time told."""
_GRANTED, _REPEATED = 1, 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What one slot says to a reservation; limits are numbered within it.

    `debits`: what it and those before it charged; `binding`: the limit without room.
    """

    side: Side
    levels: list[int]
    debits: tuple[Debit, ...] = ()
    shadowed: tuple[int, ...] = ()
    binding: int | None = None
    wait_ms: float = 0

    @classmethod
    def parse(cls, reply: Reply, side: Side, elsewhere: tuple[Debit, ...]) -> "Answer":
        """Read a reply that is neither `OVER` nor `STALE`."""
        verdict, *rest = reply
        if verdict == _GRANTED:
            bits, *levels = rest
            if not bits:
                return cls(side, levels, elsewhere + side.debits)
            shadowed = tuple(index for index in range(len(levels)) if bits >> index & 1)
            debits = tuple(
                debit
                for index, debit in enumerate(side.debits)
                if index not in shadowed
            )
            return cls(side, levels, elsewhere + debits, shadowed)
        if verdict == _REPEATED:
            text, *levels = rest
            is_fleet = side.slot == shards.FLEET
            debits = tuple(
                it for it in decode_facts(text).debits if it.scope.is_fleet == is_fleet
            )
            taken = {(it.scope, it.measure) for it in debits}
            shadowed = tuple(
                index
                for index, it in enumerate(side.debits)
                if (it.scope, it.measure) not in taken
            )
            return cls(side, levels, elsewhere + debits, shadowed)
        binding, wait_ms, *levels = rest
        wait = math.inf if wait_ms < 0 else wait_ms
        return cls(side, levels, binding=binding - 1, wait_ms=wait)
