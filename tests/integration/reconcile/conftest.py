"""A gateway and an aggregator on a real Redis, each step that of the real parts."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests import command
from tollhouse.adapters.billing_ledger import NAME, BillingLedger
from tollhouse.adapters.charge_lines import Format
from tollhouse.adapters.configuration import load
from tollhouse.adapters.redis.billing_keys import BILLING_SHARDS
from tollhouse.adapters.redis.chunks import Chunks
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.outbox import Leaving, Outbox
from tollhouse.adapters.redis.shards import SHARDS
from tollhouse.adapters.redis.windows import Windows
from tollhouse.adapters.usage_pb import from_pb_record, to_pb_record
from tollhouse.cli.places import default_config
from tollhouse.core.chunk import Account, Attempt, Provider, conclude
from tollhouse.core.exchange import Settlement
from tollhouse.core.ids import exchange_id
from tollhouse.core.usage import CountSource, Facts, TokenUsage, UsageKind

HOUR = int(time.time()) // 3600 - 30
"""Usage of the tests is of this hour: over for more than a day."""
SHARDS_OF_BILLING = range(BILLING_SHARDS)


def settlement(
    tenant: str = "acme",
    *,
    hour: int = HOUR,
    model: str = "tiny-chat",
    input_tokens: int = 10,
    cached: int = 4,
    output: int = 7,
    reasoning: int = 2,
) -> Settlement:
    """An exchange that ended in that hour."""
    ended_ms = hour * 3_600_000 + 1_800_000
    return Settlement(
        exchange_id=exchange_id(ended_ms - 500, secrets.token_bytes(10)),
        facts=Facts(
            tenant=tenant,
            key_id="abcdefghijkl",
            plan="demo",
            operation="chat",
            requested_model=model,
            served_model=model,
            cluster=model,
            provider="triton",
            weights=(1, 0, 5),
            reserved_units=100,
            input_estimate=9,
            output_estimate=20,
        ),
        kind=UsageKind.FINAL,
        usage=TokenUsage(input_tokens, output, cached, reasoning),
        input_source=CountSource.BACKEND,
        output_source=CountSource.BACKEND,
        started_ms=ended_ms - 400,
        first_ms=ended_ms - 300,
        ended_ms=ended_ms,
        flags="",
    )


@dataclass
class Rig:
    """Both sides of billing; each step is that of the real services."""

    gateway: Redis
    billing: Redis
    provider: Provider
    customers: Mapping[str, str] | None = None
    """At the provider; None: every tenant is one, by its own name."""

    def __post_init__(self) -> None:
        self.limiter = Limiter(self.gateway)
        self.outbox = Outbox(self.gateway, "test")
        self.windows = Windows(self.billing, time.time)
        self.chunks = Chunks(self.billing)

    def _account(self, tenant: str) -> Account | None:
        if self.customers is None:
            return Account(self.provider.name, tenant)
        customer = self.customers.get(tenant)
        return None if customer is None else Account(self.provider.name, customer)

    async def settle(self, *settlements: Settlement) -> None:
        """Write records, as the reader of the ledger does."""
        await self.limiter.apply([], [], settlements)

    async def carry(
        self, *, refused: str = "", applies: bool = True, forgets: bool = True
    ) -> None:
        """Bring what is in the outboxes to the windows, as a relay does.

        With a reason the aggregator refuses all of it. One that does not forget died
        with the acknowledgement in its hand.
        """
        pages = await self.outbox.read_new(range(SHARDS), 1000)
        entries = [entry for page in pages for entry in page]
        leaving: dict[int, Leaving] = {}
        for entry in entries:
            left = leaving.setdefault(entry.shard, Leaving())
            if refused:
                left.refused[entry.entry_id] = refused
            else:
                left.done.append(entry.entry_id)
        if applies and not refused:
            records = [to_pb_record(it.fields or {}) for it in entries]
            await self.windows.apply([from_pb_record(it) for it in records])
        if forgets:
            await self.outbox.forget(leaving)

    async def seal(self) -> None:
        """Seal all there is, without waiting for the next hour."""
        now = int(time.time())
        for row in await self.chunks.due_rows(SHARDS_OF_BILLING, now + 7200, 1000):
            account = self._account(row.tenant)
            if account is None:
                await self.chunks.postpone(row, now=now, next_due=now)
            else:
                await self.chunks.seal(row, account, now=now, next_due=now)

    async def ship(self) -> None:
        """Send all that is open."""
        now = int(time.time())
        for stored in await self.chunks.due(SHARDS_OF_BILLING, now + 9999, 1000):
            begun = await self.chunks.begin(stored, now=now, until=now + 60.0)
            if begun is None:
                continue
            number = begun.progress.attempts
            (answer,) = await self.provider.ship([Attempt(begun.chunk, number)])
            await self.chunks.conclude(
                begun,
                lambda it: conclude(it, number=number, answer=answer, now=now),  # noqa: B023
                now=now,
                look_at=now + 1.0,
            )


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """Our own client of the run's Redis."""
    client = await Redis.connect(redis_url, budget_seconds=2.0)
    yield client
    await client.close()


@pytest.fixture
def billing_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "billing"
    folder.mkdir()
    return folder


@pytest.fixture
def billing_ledger(billing_folder: Path) -> Iterator[BillingLedger]:
    """The files that provider `ledger` writes."""
    catalog = load(default_config()).catalog()
    ledger = BillingLedger(
        billing_folder,
        Format.CLOUDEVENTS,
        deployment="test",
        catalog=lambda: catalog,
    )
    assert NAME == ledger.name
    yield ledger
    ledger.close()


@pytest.fixture
async def rig(client: Redis, billing_ledger: BillingLedger) -> Rig:
    """Gateway and aggregator on one Redis, the billing ledger as the provider."""
    return Rig(client, client, billing_ledger)


@pytest.fixture
def db(redis_url: str) -> Iterator[redis.Redis]:
    """A look, and a grip, from outside."""
    with redis.Redis.from_url(redis_url) as outside:
        yield outside


Answer = command.Done
Run = Callable[..., Answer]


@pytest.fixture
def tollhouse() -> Run:
    """Run the command."""
    return command.tollhouse


@dataclass
class Reconciled:
    """What `tollhouse reconcile --json` said."""

    status: int
    document: dict[str, Any]

    @property
    def findings(self) -> set[tuple[str, str]]:
        """Finding and quantity of each difference."""
        return {(it["finding"], it["of"]) for it in self.document["differences"]}


Reconcile = Callable[..., Reconciled]


@pytest.fixture
def reconcile(tollhouse: Run, redis_url: str, billing_folder: Path) -> Reconcile:
    def run(*arguments: str, wait: str = "0") -> Reconciled:
        answer = tollhouse(
            "reconcile",
            *("--redis-url", redis_url, "--json", "--wait", wait),
            *("--billing-ledger", str(billing_folder)),
            *arguments,
        )
        assert answer.stdout, answer.stderr
        return Reconciled(answer.returncode, json.loads(answer.stdout))

    return run
