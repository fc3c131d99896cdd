"""What `tollhouse billing setup` finds to do."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.currency import unit_amount
from tollhouse.core.meter import Meter, event_name
from tollhouse.core.meter_plan import (
    Action,
    Conflict,
    CreateMeter,
    CreatePrice,
    CreateProduct,
    Found,
    FoundMeter,
    FoundPrice,
    Terms,
    lookup_key,
    plan,
    product_id,
)
from tollhouse.core.windows import BILLED, TokenType

NOTHING = Found({}, {}, {})
ONE = Decimal(1)


def meter(
    model: str = "tiny-chat",
    token_type: TokenType = TokenType.OUTPUT,
    price: str = "0.40",
) -> Meter:
    return Meter(model, token_type, event_name(model, token_type), Decimal(price))


def after(actions: list[Action], found: Found) -> Found:
    """What there is once all of it was done."""
    meters, products = dict(found.meters), dict(found.products)
    prices = dict(found.prices)
    for action in actions:
        match action:
            case CreateMeter(name):
                meters[name] = FoundMeter(
                    id=f"mtr_{name}", event_name=name, is_active=True
                )
            case CreateProduct(identity):
                products[identity] = True
            case CreatePrice():
                prices[action.lookup_key] = FoundPrice(
                    id=f"price_{action.lookup_key}",
                    is_active=True,
                    product=action.product,
                    meter=meters[action.event_name].id,
                    currency=action.currency,
                    amount=action.amount,
                    terms=Terms(),
                )
    return Found(meters, products, prices)


def complete(wanted: Meter, currency: str = "usd") -> Found:
    return after(plan([wanted], currency, NOTHING), NOTHING)


def test_an_empty_account_gets_all():
    """Meters before prices, and the product before them."""
    assert plan([meter()], "usd", NOTHING) == [
        CreateMeter("tollhouse.tiny-chat.output", "tiny-chat output tokens"),
        CreateProduct("tollhouse_tiny-chat", "tiny-chat"),
        CreatePrice(
            lookup_key="tollhouse.tiny-chat.output.usd",
            event_name="tollhouse.tiny-chat.output",
            product="tollhouse_tiny-chat",
            currency="usd",
            amount=Decimal("0.00004"),
            label="tiny-chat output tokens",
        ),
    ]


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", fullmatch=True)
costs = st.decimals(min_value=0, max_value=10_000, places=4)


@given(
    st.dictionaries(names, st.tuples(costs, costs, costs), max_size=5),
    st.sampled_from(["usd", "jpy", "kwd"]),
)
def test_a_second_run_has_nothing_to_do(models, currency):
    """Whatever the catalog: all is there after one run, and each thing once."""
    wanted = [
        Meter(model, token_type, event_name(model, token_type), price)
        for model, prices in models.items()
        for token_type, price in zip(BILLED, prices, strict=True)
    ]
    actions = plan(wanted, currency, NOTHING)

    assert plan(wanted, currency, after(actions, NOTHING)) == []
    priced = [it for it in actions if isinstance(it, CreatePrice)]
    assert {it.lookup_key: it.amount for it in priced} == {
        lookup_key(it.event_name, currency): unit_amount(it.price, currency)
        for it in wanted
        if it.price
    }
    products = [it.id for it in actions if isinstance(it, CreateProduct)]
    assert len(set(products)) == len(products)


# Few letters: names that differ just where they are odd.
alike = st.from_regex(r"a[a.:/-]{1,3}", fullmatch=True)
deployments = st.sampled_from(["a", "a-a", "d" * 63])


@given(alike, alike, deployments, deployments)
def test_no_two_models_share_a_product(one, other, here, there):
    """Odd and long names are told apart by a digest, deployments by theirs."""
    is_same = (one, here) == (other, there)
    assert (product_id(one, here) == product_id(other, there)) == is_same
    assert len(product_id(one * 40, here)) <= 100


def test_a_plan_is_its_deployments():
    """Products and lookup keys too: both gateways may have a model of that name."""
    here, there = (
        Meter("m", TokenType.OUTPUT, event_name("m", TokenType.OUTPUT, it), ONE, it)
        for it in ("eu", "us")
    )

    actions = plan([there], "usd", complete(here))

    kinds = [type(it) for it in actions]
    assert kinds == [CreateMeter, CreateProduct, CreatePrice]
    assert actions[2].lookup_key == "us.m.output.usd"  # type: ignore[union-attr]
    assert actions[2].product == "us_m"  # type: ignore[union-attr]


def test_a_free_token_type_has_a_meter_and_no_price():
    """Its usage is counted; a product without any price is not made either."""
    wanted = meter(price="0")

    assert plan([wanted], "usd", NOTHING) == [
        CreateMeter("tollhouse.tiny-chat.output", "tiny-chat output tokens")
    ]


def test_another_price_takes_over_the_lookup_key():
    """The old one stays, for those who have it."""
    found = complete(meter(price="0.40"))

    (action,) = plan([meter(price="0.50")], "usd", found)

    assert isinstance(action, CreatePrice)
    assert action.amount == Decimal("0.00005")
    assert action.replaces == "price_tollhouse.tiny-chat.output.usd"
    assert action.because == "it is 0.00004 per token"


def test_another_currency_is_another_price():
    """Prices of both stay on offer."""
    (action,) = plan([meter()], "eur", complete(meter()))

    assert isinstance(action, CreatePrice)
    assert (action.lookup_key[-4:], action.replaces) == (".eur", "")


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"amount": None}, "it is no plain price per token"),
        ({"meter": "mtr_other"}, "it belongs to another meter"),
        ({"product": "prod_1"}, "it belongs to product prod_1"),
        ({"currency": "eur"}, "it is in eur"),
        ({"is_active": False}, "it is archived"),
        ({"terms": Terms(interval="year")}, "it is charged otherwise"),
        ({"terms": Terms(interval_count=3)}, "it is charged otherwise"),
        ({"terms": Terms(usage_type="licensed")}, "it is charged otherwise"),
        ({"terms": Terms(scheme="tiered")}, "it is charged otherwise"),
        ({"terms": Terms(divided=True)}, "it is charged otherwise"),
    ],
)
def test_a_price_that_differs_is_replaced(change, because):
    """In anything that would change an invoice."""
    found = complete(meter())
    ((key, price),) = found.prices.items()
    found = replace(found, prices={key: replace(price, **change)})

    (action,) = plan([meter()], "usd", found)

    assert isinstance(action, CreatePrice)
    assert action.replaces == price.id
    assert action.because.startswith(because)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_active": False}, "the meter is archived"),
        ({"formula": "count"}, "its formula is count, not sum"),
        ({"formula": "last"}, "its formula is last, not sum"),
        ({"customer_key": "customer"}, "its customer key is customer"),
        ({"value_key": "tokens"}, "its value key is tokens, not value"),
        ({"time_window": "hour"}, "its event time window is hour, not none"),
    ],
)
def test_a_meter_that_counts_otherwise_is_a_conflict(change, reason):
    """Meters can't be changed: a person decides what becomes of it."""
    found = complete(meter())
    ((name, there),) = found.meters.items()
    found = replace(found, meters={name: replace(there, **change)})

    (conflict,) = plan([meter()], "usd", found)

    assert isinstance(conflict, Conflict)
    assert conflict.name == name
    assert reason in conflict.reason


def test_an_archived_product_is_a_conflict():
    """Somebody did that on purpose."""
    found = replace(complete(meter()), products={"tollhouse_tiny-chat": False})

    (conflict,) = plan([meter()], "usd", found)

    assert conflict == Conflict(
        "tollhouse_tiny-chat", "the product is archived: unarchive it in Stripe"
    )


def test_a_price_for_what_became_free_is_a_conflict():
    """New subscriptions would still be charged by it; an archived one harms nobody."""
    found = complete(meter())

    (conflict,) = plan([meter(price="0")], "usd", found)

    assert isinstance(conflict, Conflict)
    assert "free in tollhouse.yaml" in conflict.reason
    ((key, price),) = found.prices.items()
    archived = replace(found, prices={key: replace(price, is_active=False)})
    assert plan([meter(price="0")], "usd", archived) == []
