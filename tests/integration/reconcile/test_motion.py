"""What moves is no difference, and what is lost shows all the same."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import redis

from tests.integration.reconcile.conftest import HOUR, Reconcile, Rig, settlement
from tests.redis_process import RedisCluster, running_cluster, running_redis
from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.billing_books import BillingBooks
from tollhouse.adapters.redis.books import Books, Scope
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.gateway_books import GatewayBooks
from tollhouse.cli.reconcile_provider import Asked, ProviderComparison
from tollhouse.core.chunk import Window
from tollhouse.core.reconciliation import Difference, RowBooks, Totals, differences
from tollhouse.core.windows import TokenType

TENANTS = ("acme", "zeta", "t-3", "t-4")
READINGS = 40


@asynccontextmanager
async def traffic(rig: Rig) -> AsyncIterator[None]:
    """Settle, carry, seal and ship, all at once, as fast as it goes."""

    async def settle() -> None:
        await rig.settle(
            *(
                settlement(
                    random.choice(TENANTS),
                    hour=HOUR - random.randrange(3),
                    output=random.randrange(2, 50),
                )
                for _ in range(random.randrange(1, 20))
            )
        )

    async def forever(step: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            await step()
            await asyncio.sleep(random.random() * pause)

    async with asyncio.TaskGroup() as group:
        steps = [(step, 0.01) for step in (settle, settle, rig.carry)]
        # Thousands of times as often as in operation.
        steps += [(rig.seal, 0.1), (rig.ship, 0.1)]
        tasks = [group.create_task(forever(*step)) for step in steps]
        yield
        for task in tasks:
            task.cancel()


def all_books(rig: Rig) -> Books:
    return Books(GatewayBooks(rig.gateway), BillingBooks(rig.billing))


async def read(rig: Rig) -> tuple[list[RowBooks], list[Difference]]:
    """One reading, and what differs in it."""
    rows = await all_books(rig).read(Scope(None, HOUR - 9), time.time())
    return rows, [it for row in rows for it in differences(row, time.time())]


async def test_no_single_reading_under_load_shows_a_difference(rig: Rig):
    """Bounds hold at every moment; nothing is read again here."""
    exchanges, moving = 0, 0
    async with traffic(rig):
        for _ in range(READINGS):
            rows, found = await read(rig)
            assert [] == found
            totals = Totals()
            for row in rows:
                totals.add(row)
            exchanges, moving = totals.exchanges, moving + totals.moving
    assert exchanges > 200
    assert moving < READINGS * len(TENANTS) * 3


async def test_at_rest_the_same_books_are_exact(rig: Rig):
    async with traffic(rig):
        await asyncio.sleep(0.5)
    await rig.carry()
    window = Window("acme", "tiny-chat", TokenType.OUTPUT, HOUR)
    assert [] == (await read(rig))[1]

    await rig.billing.call("HINCRBY", billing_keys.window(window), "total", -1)

    assert ["missing"] == [it.finding.value for it in (await read(rig))[1]]


async def test_a_loss_shows_under_load_too(rig: Rig):
    """As soon as a row has lost more than is settled during one reading."""
    async with traffic(rig):
        await asyncio.sleep(0.3)
        window = Window("acme", "tiny-chat", TokenType.OUTPUT, HOUR)
        await rig.billing.call("HINCRBY", billing_keys.window(window), "total", -50_000)
        _, found = await read(rig)

    assert ("missing", "acme", "output") in {
        (it.finding.value, it.place.tenant, it.quantity) for it in found
    }


async def test_the_command_under_load(rig: Rig, reconcile: Reconcile):
    """With the provider: the billing ledger grows meanwhile."""
    async with traffic(rig):
        await asyncio.sleep(0.3)
        for _ in range(3):
            answer = await asyncio.to_thread(reconcile, "--provider", wait="20")
            assert (0, []) == (answer.status, answer.document["differences"])
            assert answer.document["provider"]["totals_asked"] > 0


async def test_the_provider_under_load(rig: Rig):
    """Chunks are sent between the readings; what differs must be gone in the next."""
    comparison = ProviderComparison(
        BillingBooks(rig.billing), {rig.provider.name: Asked(rig.provider)}, HOUR - 9
    )
    async with traffic(rig):
        for _ in range(10):
            compared = None
            for _ in range(20):
                rows, _ = await read(rig)
                compared = await comparison.compare(rows)
                if not compared.differences:
                    break
            assert compared is not None
            assert [] == compared.differences


# --- the other ways Redis may be set up -------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    with running_cluster() as cluster:
        yield cluster


async def connect(url: str) -> Redis:
    client = await Redis.connect(url, budget_seconds=5.0)
    while not client.connected:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.02)
    return client


async def test_clusters_and_two_servers_are_read_alike(
    cluster: RedisCluster, billing_ledger, billing_folder, tollhouse
):
    """The gateway's sums are found on every node of a cluster."""
    with running_redis(port=0) as alone:
        gateway, billing = await connect(cluster.url), await connect(alone.url)
        rig = Rig(gateway, billing, billing_ledger)
        for number in range(12):
            await rig.settle(settlement(f"t-{number}"))
        await rig.carry()
        await rig.seal()
        await rig.ship()
        await rig.settle(settlement("t-1"))
        where = (
            *("reconcile", "--redis-url", cluster.url, "--wait", "0"),
            *(
                "--billing-redis-url",
                alone.url,
                "--billing-ledger",
                str(billing_folder),
            ),
        )
        balanced = await asyncio.to_thread(tollhouse, *where)
        with redis.Redis.from_url(alone.url) as db:
            keys = db.keys("{b*}:window:t-7|*output*")
            db.delete(*keys)
        broken = await asyncio.to_thread(tollhouse, *where)
        await gateway.close()
        await billing.close()

    assert (0, "") == (balanced.returncode, balanced.stderr)
    assert balanced.stdout.startswith("12 rows checked: 13 exchanges")
    assert 1 == broken.returncode
    assert "missing" in broken.stdout
    assert "t-7" in broken.stdout


async def test_both_sides_may_be_one_cluster(
    cluster: RedisCluster, billing_ledger, billing_folder, tollhouse
):
    for node in cluster.masters:
        node.ask("FLUSHALL")
    client = await connect(cluster.url)
    rig = Rig(client, client, billing_ledger)
    await rig.settle(*(settlement(f"t-{number}") for number in range(12)))
    await rig.carry()
    await rig.seal()
    await rig.ship()
    await client.close()

    answer = await asyncio.to_thread(
        tollhouse,
        *("reconcile", "--redis-url", cluster.url, "--wait", "0"),
        *("--billing-ledger", str(billing_folder)),
    )

    assert (0, "") == (answer.returncode, answer.stderr)
    assert answer.stdout.startswith("12 rows checked: 12 exchanges")
