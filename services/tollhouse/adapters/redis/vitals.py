"""What a Redis says of its own health, looked at by the clock.

https://redis.io/docs/latest/commands/info/
"""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tollhouse.adapters.redis.client import Redis, RedisReplyError
from tollhouse.adapters.redis.node import Node
from tollhouse.core.problems import Unavailable

LOOK_SECONDS = 15.0
_LOOKS_A_CERTIFICATE: Final = 40
"""It takes a connection, and who renewed one waits ten minutes for silence."""
_BUDGET_SECONDS = 1.0
"""Nobody waits for it."""
_REPLICA = re.compile(r"^slave\d+:.*\bstate=online\b", re.MULTILINE)


class Trouble(StrEnum):
    """What is wrong with a Redis that answers."""

    APPEND = "append"
    """The last write to its append-only file failed: it takes no writes."""
    REWRITE = "rewrite"
    """The append-only file could not be rewritten: it grows until the disk is full."""
    SNAPSHOT = "snapshot"
    """The last snapshot failed."""
    EVICTION = "eviction"
    """At `maxmemory` it would throw keys away."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """Of one server, since it started."""

    server: str
    used_bytes: int
    most_bytes: int
    """`maxmemory`; 0: as much as the machine has."""
    evicted: int
    """Keys it threw away for want of memory: money may have been among them."""
    rejected: int
    """Connections above `maxclients`."""
    replicas: int
    """Those that are in step, or nearly so."""
    troubles: frozenset[Trouble]
    certificate_ends: float | None = None
    """When its certificate does, Unix seconds; None without TLS."""

    @classmethod
    def parse(
        cls, server: str, info: bytes, certificate_ends: float | None = None
    ) -> "Vitals":
        """Read INFO's reply; what a server does not say counts as well."""
        text = info.decode("utf-8", "replace").replace("\r", "")
        facts = dict(it.split(":", 1) for it in text.splitlines() if ":" in it)

        def number(name: str) -> int:
            value = facts.get(name, "")
            return int(value) if value.isdecimal() else 0

        most = number("maxmemory")
        policy = facts.get("maxmemory_policy", "noeviction")
        is_there = {
            Trouble.APPEND: facts.get("aof_last_write_status", "ok") != "ok",
            Trouble.REWRITE: facts.get("aof_last_bgrewrite_status", "ok") != "ok",
            Trouble.SNAPSHOT: facts.get("rdb_last_bgsave_status", "ok") != "ok",
            Trouble.EVICTION: most > 0 and policy != "noeviction",
        }
        return cls(
            server,
            number("used_memory"),
            most,
            number("evicted_keys"),
            number("rejected_connections"),
            len(_REPLICA.findall(text)),
            frozenset(trouble for trouble, is_so in is_there.items() if is_so),
            certificate_ends,
        )


class VitalsWatch:
    """Asks every server of a Redis; in a cluster every master."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.latest: Sequence[Vitals] = ()
        """Of those that answered the last time: what is old is no measurement."""

    async def run(self) -> None:
        """Look until cancelled; never returns."""
        while True:
            for _ in range(_LOOKS_A_CERTIFICATE):
                await self.look()
                await asyncio.sleep(LOOK_SECONDS)
            await self.see_certificates()

    async def look(self) -> None:
        """Ask once."""
        found = await asyncio.gather(*map(_ask, self._nodes))
        self.latest = [it for it in found if it is not None]

    async def see_certificates(self) -> None:
        """Have every server show its certificate anew; the next look tells of it."""
        await asyncio.gather(*(it.see_certificate() for it in self._nodes))

    @property
    def _nodes(self) -> Sequence[Node]:
        with contextlib.suppress(Unavailable):  # whoever needs it says so
            return self._redis.nodes
        return ()


async def _ask(node: Node) -> Vitals | None:
    (reply,) = await node.send((("INFO",),), _BUDGET_SECONDS)
    if isinstance(reply, (Unavailable, RedisReplyError)):
        return None  # a refusal is in the log
    return Vitals.parse(str(node.address), reply, node.certificate_ends)
