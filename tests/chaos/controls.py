"""Mistakes that a run must notice, or its silence would mean nothing.

Each is put into the real process by its test-only entry point, tests.chaos.part.
"""

import asyncio
import dataclasses
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tollhouse.adapters.redis import windows
from tollhouse.adapters.redis.client import Script
from tollhouse.billing import __main__ as billing
from tollhouse.billing import shipping
from tollhouse.billing.servicer import UsageIngest
from tollhouse.core.chunk import Answer, Attempt, Provider
from tollhouse.extproc import __main__ as extproc
from tollhouse.extproc.settler import Settler
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb

_DELAY_SECONDS = 2.0
"""How long what should be durable is only remembered."""


@dataclass(frozen=True, slots=True)
class Control:
    """One mistake: what it is, what it must lead to, how it is made in this process."""

    what: str
    sign: str
    """Of a finding of the verdict: a regular expression."""
    make: Callable[[], None]


def swap(module: ModuleType, name: str, value: object) -> None:
    """Put another thing in the place of what a wiring module uses.

    Raises LookupError where it uses none of that name: then this would do nothing.
    """
    if not hasattr(module, name):
        raise LookupError(f"{module.__name__} has no {name}")
    setattr(module, name, value)


class _Forgetful(Provider):
    """A provider that makes an identifier up for each attempt."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    @property
    def name(self) -> str:
        return self._provider.name

    @property
    def most_at_once(self) -> int:
        return self._provider.most_at_once

    async def ship(self, attempts: Sequence[Attempt]) -> Sequence[Answer]:
        return await self._provider.ship([_renamed(it) for it in attempts])

    async def total(self, customer: str, event_name: str, start: int, end: int) -> int:
        return await self._provider.total(customer, event_name, start, end)


def _renamed(attempt: Attempt) -> Attempt:
    name = f"th1_00_{secrets.token_hex(20)}"
    chunk = dataclasses.replace(attempt.chunk, identifier=name)
    return dataclasses.replace(attempt, chunk=chunk)


def _random_identifiers() -> None:
    opened = shipping.open_shipping

    def open_shipping(*args: Any, **options: Any) -> shipping.Shipping:
        found = opened(*args, **options)
        return dataclasses.replace(found, provider=_Forgetful(found.provider))

    swap(billing, "open_shipping", open_shipping)


def _no_dedupe() -> None:
    with_it = "redis.call('SADD', KEYS[FIXED + set], ARGV[at + 2]) == 0"
    source = windows._apply.source
    if with_it not in source:
        raise LookupError("apply.lua has changed: this control does nothing")
    swap(windows, "_apply", Script(source.replace(with_it, "false")))


class _Hasty(UsageIngest):
    """Acknowledges what it only remembers yet."""

    async def _take(self, batch: usage_pb.UsageBatch) -> usage_pb.BatchAck:
        async def later() -> None:
            await asyncio.sleep(_DELAY_SECONDS)
            await super(_Hasty, self)._take(batch)

        _remembered.add(asyncio.create_task(later()))
        return usage_pb.BatchAck(batch_id=batch.batch_id, applied=len(batch.records))


_remembered: set[asyncio.Task[None]] = set()


def _ack_before_apply() -> None:
    swap(billing, "UsageIngest", _Hasty)


class _Eager(Settler):
    """Commits its place in the ledger before it has settled what stands there."""

    async def _settle(self, lines: list[bytes]) -> None:
        await self._until_available(self._save)
        await asyncio.sleep(_DELAY_SECONDS)
        await super()._settle(lines)


def _commit_before_settle() -> None:
    swap(extproc, "Settler", _Eager)


CONTROLS = {
    "random-identifiers": Control(
        "every attempt at a chunk has an identifier of its own",
        r"accepted \d+, provider \d+",
        _random_identifiers,
    ),
    "no-dedupe": Control(
        "records are added without a look at their id",
        r"records \d+, window \d+",
        _no_dedupe,
    ),
    "ack-before-apply": Control(
        "records are acknowledged two seconds before they are added",
        r"records \d+, window \d+",
        _ack_before_apply,
    ),
    "commit-before-settle": Control(
        "a place in the ledger is committed two seconds before its lines are settled",
        "has 0 records|read to its end was",
        _commit_before_settle,
    ),
}
"""By the name that `--control` takes."""
