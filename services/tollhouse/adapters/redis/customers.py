"""Which customer at the provider a tenant is, in the billing Redis.

A customer has one tenant: with two, what the provider has counted could not be told
apart. Links lie in sixteen shards, so whoever changes one holds a lease on all of them
meanwhile; it ends by itself after a crash.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.asking import ask, ask_scripts
from tollhouse.adapters.redis.client import Redis, Run, Script
from tollhouse.core.problems import Unavailable

_LEASE_MS = 10_000
"""A change takes milliseconds and waits for Redis 2 s a step."""
_PATIENCE_SECONDS = 15.0
_LOOK_SECONDS = 0.05

_lease = Script.load("lease.lua")


class CustomerError(Exception):
    """The link can't be made; one line, ready to print."""


class Customers:
    """The links of all tenants. Every method raises Unavailable without Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def of(self, tenants: Iterable[str]) -> dict[str, str]:
        """The customers of those tenants that have one."""
        names = list(tenants)
        replies = await ask(self._redis, (["HGET", _links(it), it] for it in names))
        return {
            tenant: customer.decode()
            for tenant, customer in zip(names, replies, strict=True)
            if customer is not None
        }

    async def all(self) -> dict[str, str]:
        """Every tenant that has a customer, and that, by tenant."""
        shards = range(billing_keys.BILLING_SHARDS)
        replies = await ask(
            self._redis,
            (
                ["HGETALL", billing_keys.of_shard(shard, "customers")]
                for shard in shards
            ),
        )
        links = {
            tenant.decode(): customer.decode()
            for pairs in replies
            for tenant, customer in zip(pairs[::2], pairs[1::2], strict=True)
        }
        return dict(sorted(links.items()))

    async def link(self, tenant: str, customer: str) -> bool:
        """Make a customer a tenant's; False if it was. Durable on return.

        Raises CustomerError when either has another.
        """
        async with self._leased() as holder:
            links = await self.all()
            current = links.get(tenant)
            if current == customer:
                return False
            if current is not None:
                raise CustomerError(
                    f"tenant {tenant} has customer {current}; to change it: tollhouse"
                    f" billing customers unlink {tenant}, then link it again"
                )
            for owner, its in links.items():
                if its == customer:
                    raise CustomerError(
                        f"customer {customer} is tenant {owner}'s; to take it away:"
                        f" tollhouse billing customers unlink {owner}"
                    )
            await self._keep(holder)
            await ask(self._redis, (["HSET", _links(tenant), tenant, customer],))
        return True

    async def unlink(self, tenant: str) -> str | None:
        """Take a tenant's customer away; returns it. Sealed chunks keep theirs."""
        key = _links(tenant)
        async with self._leased():
            customer, _ = await ask(
                self._redis, (["HGET", key, tenant], ["HDEL", key, tenant])
            )
        return None if customer is None else customer.decode()

    @asynccontextmanager
    async def _leased(self) -> AsyncIterator[str]:
        holder = secrets.token_hex(16)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while True:
                    if await self._ask(holder, _LEASE_MS):
                        break
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            raise Unavailable("another command changes customers") from None
        try:
            yield holder
        finally:
            await self._ask(holder, 0)

    async def _keep(self, holder: str) -> None:
        """Make sure, after a while, that what was read still holds."""
        if not await self._ask(holder, _LEASE_MS):
            raise Unavailable("it took too long: another command changes customers")

    async def _ask(self, holder: str, milliseconds: int) -> bool:
        run: Run = (_lease, [billing_keys.CUSTOMERS_LEASE], [holder, milliseconds])
        (is_ours,) = await ask_scripts(self._redis, [run])
        return bool(is_ours)


def _links(tenant: str) -> str:
    return billing_keys.of_shard(billing_keys.shard(tenant), "customers")
