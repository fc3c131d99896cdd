"""The aggregator's inside on a real Redis, with a clock that the test moves."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import redis
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.integration.billing.records import HOUR_MS, Record
from tests.stripe_stand_in.server import running_stand_in
from tests.stripe_stand_in.stand_in import StandIn
from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.redis.backlog import Backlog, Backlogs
from tollhouse.adapters.redis.chunks import Chunks, Stored
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.leadership import Leadership
from tollhouse.adapters.redis.windows import Windows
from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.meter_events import MeterEvents
from tollhouse.adapters.stripe.secret import Secret
from tollhouse.adapters.tracing import Tracing
from tollhouse.adapters.usage_pb import from_pb_record
from tollhouse.billing.pace import Pace
from tollhouse.billing.sealer import Sealer
from tollhouse.billing.shipper import Shipper
from tollhouse.core.chunk import Account, Chunk, Provider, State
from tollhouse.core.meter import DEPLOYMENT, event_name
from tollhouse.core.windows import AS_PROMISED, BILLED, SECONDS_PER_HOUR, Receipt

HOUR = 497_000
"""Usage of the tests is of this hour; they begin when it is over."""
SEALED_AT = (HOUR + 1) * SECONDS_PER_HOUR + AS_PROMISED.delay_seconds


@dataclass
class Clock:
    """Time that a test moves."""

    now: float = SEALED_AT - 200

    def __call__(self) -> float:
        return self.now


@dataclass
class Aggregator:
    """One aggregator's parts, driven step by step."""

    redis: Redis
    clock: Clock
    provider: Provider
    name: str
    accounts: dict[str, str] = field(default_factory=dict)
    deployment: str = DEPLOYMENT
    tracing: Tracing = field(default_factory=Tracing)

    def __post_init__(self) -> None:
        self.windows = Windows(self.redis, self.clock)
        self.chunks = Chunks(self.redis, deployment=self.deployment)
        self.leadership = Leadership(self.redis, self.name)
        self.reader = InMemoryMetricReader()
        metrics = BillingMetrics(MeterProvider([self.reader]))
        self.sealer = Sealer(
            self.chunks,
            self.leadership,
            self._accounts,
            self.clock,
            cadence=AS_PROMISED,
            metrics=metrics,
        )
        self.shipper = Shipper(
            self.chunks,
            self.provider,
            self.leadership,
            Pace(1000, longest_pause_seconds=0.05),
            self.clock,
            metrics=metrics,
            tracing=self.tracing,
            call_seconds=2,
            longest_pause_seconds=60,
        )

    async def _accounts(self, tenants: Sequence[str]) -> Mapping[str, Account]:
        return {
            tenant: Account(self.provider.name, self.accounts[tenant])
            for tenant in tenants
            if tenant in self.accounts
        }

    async def record(self, *records: Record) -> Receipt:
        """Take usage records."""
        return await self.windows.apply([from_pb_record(it.to_pb()) for it in records])

    async def seal(self) -> None:
        """Seal what is due, once the hour's time has come."""
        self.clock.now = max(self.clock.now, SEALED_AT)
        await self.leadership.renew()
        while not await self.sealer.look():
            pass

    async def ship(self) -> None:
        """Make one round of calls for what is due, and wait for them."""
        await self.leadership.renew()
        await self.shipper.look()
        await self.shipper.rest()

    async def drain(self, *, rounds: int = 60, step_seconds: float = 70) -> None:
        """Ship until nothing is open, however often it takes."""
        for _ in range(rounds):
            await self.ship()
            if not (await self.backlog()).open_chunks:
                return
            self.clock.now += step_seconds
        pytest.fail(f"still open after {rounds} rounds")

    def measured(self, name: str) -> dict[str, float]:
        """Values of an instrument, by its one attribute."""
        told = self.reader.get_metrics_data()
        return {
            "".join(map(str, dict(point.attributes or {}).values())): point.value  # type: ignore[union-attr]
            for it in told.resource_metrics[0].scope_metrics[0].metrics  # type: ignore[union-attr]
            if it.name == name
            for point in it.data.data_points
        }

    async def backlog(self) -> Backlog:
        """What waits."""
        return await Backlogs(self.redis).look(int(self.clock()))

    async def stored(self, id_: str) -> Stored:
        """One chunk."""
        (found,) = await self.chunks.read([id_.encode()])
        return found

    async def due(self) -> list[Chunk]:
        """The open chunks that are due, by id."""
        await self.leadership.renew()
        shards = self.leadership.shards
        found = await self.chunks.due(shards, self.clock(), 1000)
        return sorted((it.chunk for it in found), key=lambda it: it.id)

    async def state(self, id_: str) -> State:
        """Where a chunk is."""
        return (await self.stored(id_)).progress.state


def usage(
    tenant: str = "acme", *, hour: int = HOUR, trace: str = "", **counts: int
) -> Record:
    """A record of that hour."""
    made, model = hour * HOUR_MS + 1_800_000, "tiny-chat"
    return Record.make(made_ms=made, tenant=tenant, model=model, trace=trace, **counts)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """Our own client of the run's Redis."""
    client = await Redis.connect(redis_url, budget_seconds=2.0)
    yield client
    await client.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def stripe(clock: Clock) -> AsyncIterator[StandIn]:
    """The stand-in, with our meters and two customers, on the test's time."""
    async with running_stand_in() as stand_in:
        stand_in.clock.set(clock())
        for token_type in BILLED:
            stand_in.add_meter(event_name("tiny-chat", token_type))
        for customer in ("cus_acme", "cus_zeta"):
            stand_in.add_customer(customer)
        yield stand_in
        assert not stand_in.violations


@pytest.fixture
async def make_aggregator(
    client: Redis, clock: Clock, stripe: StandIn
) -> AsyncIterator[Callable[..., Aggregator]]:
    """Make aggregators that ship to the stand-in."""
    api = Client(Secret(stripe.api_key), url=stripe.url, timeout_seconds=2.0)

    def make(
        name: str = "one",
        deployment: str = DEPLOYMENT,
        tracing: Tracing | None = None,
    ) -> Aggregator:
        accounts = {"acme": "cus_acme", "zeta": "cus_zeta"}
        provider = MeterEvents(api)
        tracing = tracing or Tracing()
        return Aggregator(client, clock, provider, name, accounts, deployment, tracing)

    yield make
    await api.close()


@pytest.fixture
def aggregator(make_aggregator: Callable[..., Aggregator]) -> Aggregator:
    return make_aggregator()


@pytest.fixture
def db(redis_url: str) -> Iterator[redis.Redis]:
    """A look from outside into the run's Redis."""
    with redis.Redis.from_url(redis_url) as outside:
        yield outside
