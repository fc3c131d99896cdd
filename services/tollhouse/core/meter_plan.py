"""What Stripe has to know before usage can be billed: meters, products, prices.

One meter and one price for each billed token type of a model, one product per model.
Planning compares what tollhouse.yaml asks for with what is there; a second run after a
first finds nothing to do. Nothing is deleted, and what a person changed in a way we
can't count with is a conflict that a person resolves.

Free token types have a meter and no price. Models that left tollhouse.yaml keep theirs:
usage of theirs may still come.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from tollhouse.core.currency import plain, unit_amount
from tollhouse.core.meter import DEPLOYMENT, Meter, shortened

CUSTOMER_KEY = "stripe_customer_id"
VALUE_KEY = "value"
"""Where an event has its customer and value: Stripe's defaults."""

INTERVAL = "month"

_LONGEST_PRODUCT = 100
_ODD = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMeter:
    """A meter at Stripe. `time_window`: of events added up before, "" for none."""

    id: str
    event_name: str
    is_active: bool
    formula: str = "sum"
    customer_key: str = CUSTOMER_KEY
    value_key: str = VALUE_KEY
    time_window: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPrice:
    """A price at Stripe.

    `amount`: smallest units of the currency per token, None where it is not that
    simple. `terms` are all other terms: how it recurs and what it multiplies with.
    """

    id: str
    is_active: bool
    product: str
    meter: str
    currency: str
    amount: Decimal | None
    terms: "Terms"


@dataclass(frozen=True, slots=True)
class Terms:
    """How a price is charged; the defaults are ours."""

    usage_type: str = "metered"
    interval: str = INTERVAL
    interval_count: int = 1
    scheme: str = "per_unit"
    divided: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What there is: meters and products by name and id, prices by lookup key."""

    meters: Mapping[str, FoundMeter]
    products: Mapping[str, bool]
    """Product id → whether it is active."""
    prices: Mapping[str, FoundPrice]


@dataclass(frozen=True, slots=True)
class CreateMeter:
    """A meter that sums the values of events of its name."""

    event_name: str
    label: str


@dataclass(frozen=True, slots=True)
class CreateProduct:
    """What invoices call a model."""

    id: str
    model: str


@dataclass(frozen=True, slots=True)
class CreatePrice:
    """A price per token, found by its lookup key.

    `replaces` is the id of the price that has the key now; running subscriptions keep
    that one. `because` says what is different about it.
    """

    lookup_key: str
    event_name: str
    product: str
    currency: str
    amount: Decimal
    label: str
    replaces: str = ""
    because: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What a person has to resolve, with the remedy."""

    name: str
    reason: str


Action = CreateMeter | CreateProduct | CreatePrice | Conflict


def product_id(model: str, deployment: str = DEPLOYMENT) -> str:
    """A model's product at Stripe, derived: no other model or deployment has it."""
    room = _LONGEST_PRODUCT - len(f"{deployment}_")
    return f"{deployment}_{shortened(model, _ODD.sub('-', model), room)}"


def lookup_key(event_name: str, currency: str) -> str:
    """What the price of a meter is found by; at most 200 characters at Stripe."""
    return f"{event_name}.{currency}"


def plan(meters: Sequence[Meter], currency: str, found: Found) -> list[Action]:
    """List what to do, in order; nothing when all is there."""
    actions: list[Action] = []
    products: set[str] = set()
    for meter in meters:
        actions += _plan_meter(meter, found)
        product = product_id(meter.model, meter.deployment)
        if meter.price and product not in products:
            products.add(product)
            actions += _plan_product(product, meter.model, found)
        actions += _plan_price(meter, currency, found)
    return actions


def _plan_meter(meter: Meter, found: Found) -> Iterator[Action]:
    there = found.meters.get(meter.event_name)
    if there is None:
        yield CreateMeter(meter.event_name, _label(meter))
        return
    if not there.is_active:
        yield Conflict(
            meter.event_name, "the meter is archived: reactivate it in Stripe"
        )
        return
    faults = [
        f"its {what} is {has or 'none'}, not {wanted or 'none'}"
        for what, has, wanted in (
            ("formula", there.formula, "sum"),
            ("customer key", there.customer_key, CUSTOMER_KEY),
            ("value key", there.value_key, VALUE_KEY),
            ("event time window", there.time_window, ""),
        )
        if has != wanted
    ]
    if faults:
        yield Conflict(
            meter.event_name,
            f"the meter counts otherwise: {', '.join(faults)}; meters can't be changed:"
            " archive it in Stripe once nothing uses it",
        )


def _plan_product(product: str, model: str, found: Found) -> Iterator[Action]:
    is_active = found.products.get(product)
    if is_active is None:
        yield CreateProduct(product, model)
    elif not is_active:
        yield Conflict(product, "the product is archived: unarchive it in Stripe")


def _plan_price(meter: Meter, currency: str, found: Found) -> Iterator[Action]:
    key = lookup_key(meter.event_name, currency)
    there = found.prices.get(key)
    if not meter.price:
        if there is not None and there.is_active:
            yield Conflict(
                key,
                f"it is free in tollhouse.yaml, but price {there.id} is on offer:"
                " archive that in Stripe, or give it a price",
            )
        return
    wanted = CreatePrice(
        lookup_key=key,
        event_name=meter.event_name,
        product=product_id(meter.model, meter.deployment),
        currency=currency,
        amount=unit_amount(meter.price, currency),
        label=_label(meter),
    )
    if there is None:
        yield wanted
    elif differs := _differences(wanted, there, found):
        yield replace(wanted, replaces=there.id, because=", ".join(differs))


def _differences(wanted: CreatePrice, there: FoundPrice, found: Found) -> list[str]:
    meter = found.meters.get(wanted.event_name)
    differs = []
    if there.amount is None:
        differs.append("it is no plain price per token")
    elif there.amount != wanted.amount:
        differs.append(f"it is {plain(there.amount)} per token")
    if meter is None or there.meter != meter.id:
        differs.append("it belongs to another meter")
    if there.product != wanted.product:
        differs.append(f"it belongs to product {there.product}")
    if there.currency != wanted.currency:
        differs.append(f"it is in {there.currency}")
    if there.terms != Terms():
        differs.append("it is charged otherwise than per month and token")
    if not there.is_active:
        differs.append("it is archived")
    return differs


def _label(meter: Meter) -> str:
    return f"{meter.model} {meter.token_type.value.replace('_', ' ')} tokens"
