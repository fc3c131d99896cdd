"""Meters, products and prices made at Stripe, once each."""

import asyncio
from decimal import Decimal

import pytest

from tests.integration.stripe.parts import attempt, stripe_account
from tests.stripe_stand_in.stand_in import StandIn
from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.meter_events import MeterEvents
from tollhouse.adapters.stripe.setup import Setup, SetupError
from tollhouse.core.chunk import Answer, Verdict
from tollhouse.core.meter import Meter, event_name
from tollhouse.core.meter_plan import (
    Action,
    Conflict,
    CreateMeter,
    CreatePrice,
    CreateProduct,
)
from tollhouse.core.problems import Unavailable
from tollhouse.core.windows import BILLED

EVENT_NAME = "tollhouse.tiny-chat.output"
LOOKUP_KEY = f"{EVENT_NAME}.usd"


@pytest.fixture
async def account(stand_in: StandIn):
    async with stripe_account(stand_in) as client:
        yield client


def wanted(
    models: tuple[str, ...] = ("tiny-chat",), price: str = "0.40"
) -> list[Meter]:
    return [
        Meter(model, token_type, event_name(model, token_type), Decimal(price))
        for model in models
        for token_type in BILLED
    ]


def setup(account: Client, meters: list[Meter], currency: str = "usd") -> Setup:
    return Setup(account, meters, currency, pause_seconds=0.01)


async def apply(account: Client, meters: list[Meter], currency: str = "usd"):
    done: list[Action] = []
    count = await setup(account, meters, currency).apply(done.append)
    assert count == len(done)
    return done


def on_offer(stand_in: StandIn) -> dict[str, str]:
    """Lookup key → amount, of all prices that have one."""
    return {
        price["lookup_key"]: price["unit_amount_decimal"]
        for price in stand_in.objects.all("price")
        if price["lookup_key"]
    }


def posted(stand_in: StandIn) -> list[str]:
    return [call.path for call in stand_in.calls if call.method == "POST"]


async def test_a_dry_run_changes_nothing(stand_in, account):
    """It only reads."""
    actions = await setup(account, wanted()).plan()

    assert [type(it) for it in actions] == [
        *(CreateMeter, CreateProduct, CreatePrice),
        *(CreateMeter, CreatePrice),
        *(CreateMeter, CreatePrice),
    ]
    assert posted(stand_in) == []


async def test_an_empty_account_is_set_up_once(stand_in, account):
    """The second time there is nothing to do."""
    meters = wanted()

    assert len(await apply(account, meters)) == 7
    before = len(posted(stand_in))
    assert await apply(account, meters) == []

    assert len(posted(stand_in)) == before
    assert stand_in.violations == []
    made = {it["event_name"]: it for it in stand_in.objects.all("billing.meter")}
    assert set(made) == {it.event_name for it in meters}
    (product,) = stand_in.objects.all("product")
    assert (product["id"], product["name"]) == ("tollhouse_tiny-chat", "tiny-chat")
    for price in stand_in.objects.all("price"):
        assert price["unit_amount_decimal"] == "0.00004"
        assert price["currency"] == "usd"
        assert price["product"] == product["id"]
        assert price["recurring"] == {
            "interval": "month",
            "interval_count": 1,
            "usage_type": "metered",
            "meter": made[price["lookup_key"].removesuffix(".usd")]["id"],
        }


async def test_what_was_set_up_takes_our_events(stand_in, account):
    """The meter reads what we send."""
    await apply(account, wanted())
    stand_in.add_customer("cus_acme")

    answers = await MeterEvents(account).ship([attempt(value=9)])

    assert answers == [Answer(Verdict.ACCEPTED)]
    assert list(stand_in.totals().values()) == [9]


async def test_many_models_and_lists_of_many_pages(stand_in, account):
    """Prices are looked up ten at a time, meters come by the hundred."""
    meters = wanted(tuple(f"model-{number}" for number in range(8)))

    assert len(await apply(account, meters)) == 56
    for number in range(120):
        stand_in.add_meter(f"other.{number}")
    assert await setup(account, meters).plan() == []


@pytest.mark.parametrize(
    ("currency", "price", "amount"),
    [
        ("usd", "0.0001", "0.00000001"),
        ("jpy", "0.0001", "0.0000000001"),
        ("jpy", "15", "0.000015"),
        ("kwd", "2.5", "0.0025"),
        ("isk", "14", "0.0014"),
    ],
)
async def test_amounts_arrive_exactly(stand_in, account, currency, price, amount):
    """Small ones too, which the SDK would write as 1E-8."""
    meters = wanted(price=price)
    await apply(account, meters, currency)

    assert set(on_offer(stand_in).values()) == {amount}
    assert await setup(account, meters, currency).plan() == []


async def test_a_changed_price_takes_over_the_lookup_key(stand_in, account):
    """Also back again within a day: another key for another change."""
    for price, amount in (
        ("0.40", "0.00004"),
        ("0.50", "0.00005"),
        ("0.40", "0.00004"),
    ):
        await apply(account, wanted(price=price))
        assert on_offer(stand_in)[LOOKUP_KEY] == amount

    prices = stand_in.objects.all("price")
    assert len(list(prices)) == 9
    # Those who subscribed to an old one keep it.
    assert all(price["active"] for price in stand_in.objects.all("price"))


async def test_with_a_conflict_nothing_is_done(stand_in, account):
    """A half-made set of prices is worse than none; a person goes first."""
    stand_in.add_meter(EVENT_NAME, formula="count")

    actions = await setup(account, wanted()).plan()
    conflicts = [it for it in actions if isinstance(it, Conflict)]
    assert [it.name for it in conflicts] == [EVENT_NAME]
    with pytest.raises(SetupError, match="nothing was changed"):
        await apply(account, wanted())
    assert posted(stand_in) == []


async def test_an_archived_meter_beside_one_at_work(stand_in, account):
    """The one at work counts, whichever is older."""
    old = stand_in.add_meter(EVENT_NAME)
    stand_in.catalog.change_meter(old, active=False)
    conflicts = [
        it for it in await setup(account, wanted()).plan() if isinstance(it, Conflict)
    ]
    assert [it.reason[:21] for it in conflicts] == ["the meter is archived"]

    stand_in.add_meter(EVENT_NAME)
    assert len(await apply(account, wanted())) == 6


async def test_two_at_once_disturb_nobody(stand_in, account):
    """Both end well, and each thing is there once."""
    results = await asyncio.gather(
        *(apply(account, wanted(("a", "b"))) for _ in range(3))
    )

    assert all(len(done) <= 14 for done in results)
    assert len(list(stand_in.objects.all("billing.meter"))) == 6
    assert len(list(stand_in.objects.all("product"))) == 2
    assert len(list(stand_in.objects.all("price"))) == 6


@pytest.mark.parametrize(
    "fault", ["rate_limit", "conflict", "error_before", "error_after", "reset_after"]
)
@pytest.mark.parametrize("path", ["/v1/billing/meters", "/v1/products", "/v1/prices"])
async def test_a_failure_on_the_way_is_made_up_for(stand_in, account, fault, path):
    """Stripe repeats a 500 to the same key: the next round has other keys."""
    once = setup(account, wanted())
    await once.plan()
    # The next call of this path that makes something.
    stand_in.faults.plan(fault, f"POST {path}")

    done: list[Action] = []
    await once.apply(done.append)

    assert await setup(account, wanted()).plan() == []
    assert len(list(stand_in.objects.all("price"))) == 3


async def test_a_failure_that_stays(stand_in, account):
    """It gives up, says Stripe's code and that doing it again is safe."""
    for _ in range(40):
        stand_in.faults.plan("error_before", "POST /v1/products")

    with pytest.raises(SetupError, match=r"\(api_error\): run it again"):
        await apply(account, wanted())
    assert on_offer(stand_in) == {}


async def test_a_refused_key(stand_in):
    async with stripe_account(stand_in, key="rk_test_nobody") as client:
        with pytest.raises(Unavailable, match="refuses our API key"):
            await setup(client, wanted()).plan()


async def test_a_key_that_may_only_read(stand_in, account):
    """It is said at once: two more rounds would not help."""
    stand_in.settings.restricted_keys = {"rk_test_reader": ("/v1/",)}
    reader = setup(account, wanted())
    await reader.plan()
    stand_in.settings.restricted_keys = {"rk_test_reader": ("/v1/prices",)}
    async with stripe_account(stand_in, key="rk_test_reader") as client:
        with pytest.raises(Unavailable, match="refuses our API key"):
            await setup(client, wanted()).plan()
