"""Which customer a tenant is: at Stripe, and in the billing Redis."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.stripe.parts import stripe_account
from tests.redis_process import running_cluster
from tests.stripe_stand_in.stand_in import StandIn
from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.customers import CustomerError, Customers
from tollhouse.adapters.stripe.customers import Customers as StripeCustomers
from tollhouse.core.problems import Unavailable

TENANTS = [f"tenant-{number}" for number in range(40)]


@pytest.fixture
async def redis(redis_url: str):
    client = await Redis.connect(redis_url, budget_seconds=5.0)
    yield client
    await client.close()


@pytest.fixture
def links(redis: Redis) -> Customers:
    return Customers(redis)


async def test_links_are_found_by_tenant(links, redis):
    """In the shard of the tenant, where chunks are sealed."""
    assert await links.link("acme", "cus_1")
    assert not await links.link("acme", "cus_1")

    assert await links.of(["acme", "zeta"]) == {"acme": "cus_1"}
    assert await links.of([]) == {}
    key = billing_keys.of_shard(billing_keys.shard("acme"), "customers")
    assert await redis.call("HGETALL", key) == [b"acme", b"cus_1"]


async def test_all_links(links):
    for tenant in reversed(TENANTS):
        await links.link(tenant, f"cus_{tenant}")

    every = await links.all()
    assert list(every) == sorted(TENANTS)
    assert await links.of(TENANTS) == every


async def test_a_customer_has_one_tenant(links):
    """What Stripe has counted for it could not be told apart otherwise."""
    await links.link("acme", "cus_1")

    with pytest.raises(CustomerError, match=r"is tenant acme's; .* unlink acme"):
        await links.link("zeta", "cus_1")
    assert await links.all() == {"acme": "cus_1"}
    assert await links.unlink("acme") == "cus_1"
    assert await links.link("zeta", "cus_1")


async def test_a_tenant_has_one_customer(links):
    """Who pays is not changed in passing; the other customer stays free."""
    await links.link("acme", "cus_1")

    with pytest.raises(CustomerError, match="has customer cus_1; to change it"):
        await links.link("acme", "cus_2")
    assert await links.link("zeta", "cus_2")
    assert await links.all() == {"acme": "cus_1", "zeta": "cus_2"}


async def test_unlinking_what_is_not_linked(links):
    assert await links.unlink("acme") is None


async def test_a_command_that_died_holds_up_the_next_one(links, redis):
    """For as long as its lease runs, then it goes on."""
    await redis.call("SET", "{b0}:customers_lease", "somebody", "PX", 300)

    assert await links.link("acme", "cus_1")
    assert await redis.call("EXISTS", "{b0}:customers_lease") == 0


operations = st.lists(
    st.tuples(
        st.sampled_from(["link", "unlink"]),
        st.sampled_from(["acme", "zeta", "beta"]),
        st.sampled_from(["cus_1", "cus_2", "cus_3"]),
    ),
    max_size=12,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(operations, min_size=2, max_size=3))
def test_never_two_tenants_of_one_customer(redis_url, scripts):
    """However many commands run at once; in the end all can be undone."""

    async def run(script) -> None:
        redis = await Redis.connect(redis_url, budget_seconds=5.0)
        links = Customers(redis)
        for what, tenant, customer in script:
            try:
                if what == "link":
                    await links.link(tenant, customer)
                else:
                    await links.unlink(tenant)
            except CustomerError:
                pass
            every = list((await links.all()).values())
            assert len(set(every)) == len(every)
        await redis.close()

    async def check() -> None:
        redis = await Redis.connect(redis_url, budget_seconds=5.0)
        await redis.call("FLUSHALL")
        await asyncio.gather(*(run(script) for script in scripts))
        links = Customers(redis)
        for tenant in ("acme", "zeta", "beta"):
            await links.unlink(tenant)
        for tenant, customer in zip(
            ("beta", "acme", "zeta"), ("cus_1", "cus_2", "cus_3"), strict=True
        ):
            assert await links.link(tenant, customer)
        await redis.close()

    asyncio.run(check())


async def test_links_in_a_cluster():
    """No command touches two slots."""
    with running_cluster() as cluster:
        redis = await Redis.connect(cluster.url, budget_seconds=5.0)
        links = Customers(redis)
        for tenant in TENANTS:
            await links.link(tenant, f"cus_{tenant}")
        await links.unlink(TENANTS[0])

        assert await links.of(TENANTS) == {it: f"cus_{it}" for it in TENANTS[1:]}
        assert len(await links.all()) == len(TENANTS) - 1
        await redis.close()


async def test_redis_away(free_port):
    redis = await Redis.connect(f"redis://127.0.0.1:{free_port()}/0")

    with pytest.raises(Unavailable):
        await Customers(redis).of(["acme"])
    await redis.close()


@pytest.fixture
async def account(stand_in: StandIn):
    async with stripe_account(stand_in, seconds=2.0) as client:
        yield StripeCustomers(client)


async def test_a_customer_s_existence(stand_in, account):
    """A deleted one is kept by Stripe and can't be billed."""
    stand_in.add_customer("cus_1")
    stand_in.add_customer("cus_2")
    stand_in.catalog.delete_customer("cus_2")

    assert [await account.exists(f"cus_{it}") for it in (1, 2, 3)] == [
        True,
        False,
        False,
    ]


async def test_a_new_customer(stand_in, account):
    """It names its tenant; asked for again it is the same one."""
    created = await account.create("acme", "pay@acme.example")

    assert await account.create("acme", "pay@acme.example") == created
    (customer,) = stand_in.objects.all("customer")
    assert customer["id"] == created
    assert customer["name"] == "acme"
    assert customer["email"] == "pay@acme.example"
    assert customer["metadata"] == {"tollhouse_tenant": "acme"}
    assert await account.create("zeta") != created
    assert stand_in.violations == []


async def test_a_failure_that_stripe_repeats(stand_in, account):
    """Its 500 is the answer to that key for a day; the next key gets through."""
    stand_in.faults.plan("error_before")

    created = await account.create("acme")
    assert await account.create("acme") == created
    assert len(list(stand_in.objects.all("customer"))) == 1


@pytest.mark.parametrize("fault", ["rate_limit", "conflict", "reset_after"])
async def test_a_customer_that_is_not_made_now(stand_in, account, fault):
    """Asked again there is one, not two."""
    stand_in.faults.plan(fault)
    with pytest.raises(Unavailable) as raised:
        await account.create("acme")

    assert raised.value.transient
    assert await account.create("acme")
    assert len(list(stand_in.objects.all("customer"))) == 1
