"""Meters, products and prices at Stripe: what there is, and making what is missing.

Stripe itself lets no second object have a meter's event name, a product's id or a
price's lookup key, so two who do this at once disturb nobody. Idempotency keys come
from the contents too; they have the round in them, because Stripe repeats the first
answer to a key for a day, also where it was a failure.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, assert_never, cast

from stripe import Price
from stripe.billing import Meter as StripeMeter

from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.outcome import CallError, reading
from tollhouse.core.currency import plain
from tollhouse.core.meter import Meter
from tollhouse.core.meter_plan import (
    CUSTOMER_KEY,
    INTERVAL,
    VALUE_KEY,
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

if TYPE_CHECKING:
    from stripe import StripeClient

_ROUNDS = 3
_PAUSE_SECONDS = 1.0
_PAGE = 100
_LOOKUP_KEYS = 10
"""As many as a list of prices may ask for."""
_NOT_FOUND = 404
_ACTIVE = "active"


class SetupError(Exception):
    """It could not be finished; one line, ready to print. Doing it again is safe."""


class Setup:
    """The meters of one catalog at Stripe."""

    def __init__(
        self,
        client: Client,
        meters: Sequence[Meter],
        currency: str,
        *,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self._sdk = client.sdk
        self._meters = meters
        self._currency = currency
        self._pause = pause_seconds
        self._ids: dict[str, str] = {}

    async def plan(self) -> list[Action]:
        """List what is to be done. Raises Unavailable."""
        try:
            with reading():
                found = await self._look()
        except CallError as error:
            failure = error.unavailable()
        else:
            return plan(self._meters, self._currency, found)
        raise failure

    async def apply(self, done: Callable[[Action], None]) -> int:
        """Do what is to be done until nothing is; returns how many actions that took.

        Calls `done` after each. Raises SetupError when something is left, also for
        conflicts, with which nothing at all is done; Unavailable for a refused key.
        """
        count = 0
        failure = ""
        for number in range(1, _ROUNDS + 2):
            actions = await self.plan()
            if not actions:
                return count
            if any(isinstance(action, Conflict) for action in actions):
                raise SetupError("there are conflicts: nothing was changed")
            if number > _ROUNDS:
                break
            if number > 1:
                await asyncio.sleep(self._pause)
            failure = ""
            for action in actions:
                code = await self._try(action, number)
                if code:
                    failure = failure or f" ({code})"
                else:
                    count += 1
                    done(action)
        raise SetupError(f"Stripe did not do all of it{failure}: run it again")

    async def _try(self, action: Action, number: int) -> str:
        """Do it; returns what went wrong. The next round sees what is left."""
        try:
            with reading():
                await self._do(action, number)
        except CallError as error:
            failed = error
        else:
            return ""
        if failed.is_key_refused:
            raise failed.unavailable()
        return failed.code

    async def _do(self, action: Action, number: int) -> None:
        key = _idempotency_key(action, number)
        match action:
            case CreateMeter():
                meter = await self._sdk.v1.billing.meters.create_async(
                    {
                        "display_name": action.label,
                        "event_name": action.event_name,
                        "default_aggregation": {"formula": "sum"},
                        "customer_mapping": {
                            "type": "by_id",
                            "event_payload_key": CUSTOMER_KEY,
                        },
                        "value_settings": {"event_payload_key": VALUE_KEY},
                    },
                    {"idempotency_key": key},
                )
                self._ids[action.event_name] = meter.id
            case CreateProduct():
                await self._sdk.v1.products.create_async(
                    {
                        "id": action.id,
                        "name": action.model,
                        "metadata": {"tollhouse_model": action.model},
                    },
                    {"idempotency_key": key},
                )
            case CreatePrice():
                await self._sdk.v1.prices.create_async(
                    {
                        "product": action.product,
                        "currency": action.currency,
                        "nickname": action.label,
                        "lookup_key": action.lookup_key,
                        "transfer_lookup_key": bool(action.replaces),
                        # As text: the SDK would write a small Decimal as 5E-7.
                        "unit_amount_decimal": cast("Decimal", plain(action.amount)),
                        "recurring": {
                            "interval": INTERVAL,
                            "usage_type": "metered",
                            "meter": self._ids[action.event_name],
                        },
                    },
                    {"idempotency_key": key},
                )
            case Conflict():
                pass
            case unreachable:
                assert_never(unreachable)

    async def _look(self) -> Found:
        meters = await _meters(self._sdk, {it.event_name for it in self._meters})
        self._ids = {name: meter.id for name, meter in meters.items()}
        products = dict.fromkeys(
            product_id(it.model, it.deployment) for it in self._meters
        )
        keys = [lookup_key(it.event_name, self._currency) for it in self._meters]
        return Found(
            meters=meters,
            products={
                product: is_active
                for product in products
                if (is_active := await _product(self._sdk, product)) is not None
            },
            prices=await _prices(self._sdk, keys),
        )


async def _meters(sdk: "StripeClient", names: set[str]) -> dict[str, FoundMeter]:
    """Of several meters of a name, the one at work: archived ones may share it."""
    meters: dict[str, FoundMeter] = {}
    page = await sdk.v1.billing.meters.list_async({"limit": _PAGE})
    async for meter in page.auto_paging_iter():
        name = meter.event_name
        if name in names and (name not in meters or not meters[name].is_active):
            meters[name] = from_stripe_meter(meter)
    return meters


async def _product(sdk: "StripeClient", product: str) -> bool | None:
    """Whether it is active; None: there is none."""
    try:
        found = await sdk.v1.products.retrieve_async(product)
    except CallError as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    return None if getattr(found, "deleted", False) else found.active


async def _prices(sdk: "StripeClient", keys: Sequence[str]) -> dict[str, FoundPrice]:
    prices: dict[str, FoundPrice] = {}
    for start in range(0, len(keys), _LOOKUP_KEYS):
        some = list(keys[start : start + _LOOKUP_KEYS])
        page = await sdk.v1.prices.list_async({"lookup_keys": some, "limit": _PAGE})
        async for price in page.auto_paging_iter():
            if price.lookup_key is not None:
                prices[price.lookup_key] = from_stripe_price(price)
    return prices


def from_stripe_meter(meter: StripeMeter) -> FoundMeter:
    """Read what matters of a meter."""
    return FoundMeter(
        id=meter.id,
        event_name=meter.event_name,
        is_active=meter.status == _ACTIVE,
        formula=meter.default_aggregation.formula,
        customer_key=meter.customer_mapping.event_payload_key,
        value_key=meter.value_settings.event_payload_key,
        time_window=getattr(meter, "event_time_window", None) or "",
    )


def from_stripe_price(price: Price) -> FoundPrice:
    """Read what matters of a price."""
    amount, recurring = price.unit_amount_decimal, price.recurring
    terms = Terms(usage_type="none", scheme=price.billing_scheme)
    if recurring is not None:
        terms = Terms(
            usage_type=recurring.usage_type,
            interval=recurring.interval,
            interval_count=recurring.interval_count,
            scheme=price.billing_scheme,
            divided=getattr(price, "transform_quantity", None) is not None,
        )
    product = price.product
    return FoundPrice(
        id=price.id,
        is_active=price.active,
        product=product if isinstance(product, str) else product.id,
        meter=(recurring.meter if recurring else None) or "",
        currency=price.currency,
        amount=None if amount is None else Decimal(amount),
        terms=terms,
    )


def _idempotency_key(action: Action, number: int) -> str:
    content = json.dumps(asdict(action), default=str, sort_keys=True)
    digest = blake2b(content.encode(), digest_size=20).hexdigest()
    return f"tollhouse-{type(action).__name__}-{digest}@{number}"
