"""Meters, products, prices and customers: made, changed and looked up."""

import re
from decimal import Decimal
from typing import Any

from tests.stripe_stand_in.clock import Clock
from tests.stripe_stand_in.meter_events import LONGEST
from tests.stripe_stand_in.objects import Object, Objects
from tests.stripe_stand_in.refusals import invalid, malformed

_FORMULAS = ("sum", "count", "last")
_INTERVALS = ("day", "week", "month", "year")
_MOST_DECIMALS = 12
_LONGEST_LOOKUP_KEY = 200
# Of metadata: https://docs.stripe.com/api/metadata.
_MOST_KEYS = 50
_LONGEST_KEY = 40
_LONGEST_VALUE = 500
_CURRENCY = re.compile(r"[a-z]{3}")


class Catalog:
    """Everything but events."""

    def __init__(self, clock: Clock, objects: Objects) -> None:
        self._clock = clock
        self._objects = objects

    def add_meter(self, form: dict[str, Any]) -> Object:
        """Make a meter; its event name must be no other active meter's."""
        event_name = form["event_name"]
        if not 0 < len(event_name) <= LONGEST:
            raise malformed("Invalid event_name", "parameter_invalid", "event_name")
        formula = form["default_aggregation"]["formula"]
        _one_of("default_aggregation[formula]", formula, _FORMULAS)
        window = form.get("event_time_window")
        _one_of("event_time_window", window, (None, "hour", "day"))
        for meter in self._objects.all("billing.meter"):
            if meter["event_name"] == event_name and meter["status"] == "active":
                raise invalid(
                    f'There is already an active meter with event name "{event_name}".',
                    param="event_name",
                )
        key = form.get("customer_mapping", {}).get("event_payload_key")
        value_key = form.get("value_settings", {}).get("event_payload_key")
        return self._add(
            "billing.meter",
            display_name=form["display_name"],
            event_name=event_name,
            event_time_window=window,
            default_aggregation={"formula": formula},
            customer_mapping={
                "event_payload_key": key or "stripe_customer_id",
                "type": "by_id",
            },
            value_settings={"event_payload_key": value_key or "value"},
            status="active",
            status_transitions={"deactivated_at": None},
            updated=int(self._clock.now()),
        )

    def change_meter(self, identity: str, *, active: bool) -> Object:
        """Deactivate or reactivate one; raises Refusal where it is so already."""
        meter = self._objects.get("billing.meter", identity)
        status = "active" if active else "inactive"
        if meter["status"] == status:
            raise invalid(f"The meter is already {status}.")
        now = int(self._clock.now())
        return self._objects.save(
            {
                **meter,
                "status": status,
                "status_transitions": {"deactivated_at": None if active else now},
                "updated": now,
            }
        )

    def rename_meter(self, identity: str, form: dict[str, Any]) -> Object:
        """Change the display name, the one thing that may change."""
        meter = self._objects.get("billing.meter", identity)
        return self._objects.save({**meter, **form, "updated": int(self._clock.now())})

    def add_customer(self, form: dict[str, Any], identity: str | None = None) -> Object:
        """Make a customer. Stripe chooses the id; only tests give one."""
        _check_metadata(form)
        plain = {name: form.get(name) for name in ("description", "email", "name")}
        metadata = form.get("metadata") or {}
        return self._add("customer", identity, **plain, metadata=metadata)

    def delete_customer(self, identity: str) -> Object:
        """Delete one: it stays as a stub that says so."""
        self._objects.get("customer", identity)
        stub = {"id": identity, "object": "customer", "deleted": True}
        return self._objects.save(stub)

    def change(self, noun: str, identity: str, form: dict[str, Any]) -> Object:
        """Change a customer's, product's or price's plain fields and metadata."""
        found = self._objects.get(noun, identity)
        if found.get("deleted"):
            raise invalid(f"The {noun} was deleted.")
        _check_metadata(form)
        changed = {**found, **{k: v for k, v in form.items() if k in found}}
        if "active" in form:
            changed["active"] = form["active"] == "true"
        if "metadata" in form:
            # Key by key; an empty value takes one away, an empty metadata all.
            mixed = {**found["metadata"], **(form["metadata"] or {})}
            kept = {k: v for k, v in mixed.items() if v}
            changed["metadata"] = kept if form["metadata"] else {}
        if noun == "price" and form.get("lookup_key"):
            self._claim(form, besides=identity)
        return self._objects.save(changed)

    def add_product(self, form: dict[str, Any]) -> Object:
        """Make a product, with an id of the caller's choice or of ours."""
        _check_metadata(form)
        identity = form.get("id")
        if identity and self._objects.find("product", identity):
            raise invalid("Product already exists.", "resource_already_exists", "id")
        return self._add(
            "product",
            identity,
            name=form["name"],
            active=form.get("active", "true") == "true",
            description=form.get("description"),
            unit_label=form.get("unit_label"),
            metadata=form.get("metadata") or {},
        )

    def add_price(self, form: dict[str, Any]) -> Object:
        """Make a price of a product that exists, per unit, once or recurring."""
        _check_metadata(form)
        if not _CURRENCY.fullmatch(form["currency"]):
            raise invalid(f"Invalid currency: {form['currency']}", param="currency")
        if "product" not in form:
            raise malformed(
                "Missing required param: product.", "parameter_missing", "product"
            )
        self._objects.get("product", form["product"], param="product", status=400)
        amount = _amount(form)
        recurring = self._recurring(form["recurring"]) if "recurring" in form else None
        if form.get("lookup_key"):
            self._claim(form)
        return self._add(
            "price",
            active=form.get("active", "true") == "true",
            billing_scheme="per_unit",
            currency=form["currency"],
            lookup_key=form.get("lookup_key"),
            metadata=form.get("metadata") or {},
            nickname=form.get("nickname"),
            product=form["product"],
            recurring=recurring,
            tax_behavior=form.get("tax_behavior", "unspecified"),
            type="one_time" if recurring is None else "recurring",
            unit_amount=int(amount) if amount == int(amount) else None,
            # Plain digits: 1E-7 is no decimal of theirs.
            unit_amount_decimal=f"{amount.normalize():f}",
        )

    def _recurring(self, given: dict[str, Any]) -> Object:
        _one_of("recurring[interval]", given["interval"], _INTERVALS)
        usage_type = given.get("usage_type", "licensed")
        _one_of("recurring[usage_type]", usage_type, ("licensed", "metered"))
        identity = given.get("meter")
        if (identity is not None) != (usage_type == "metered"):
            raise invalid(
                "recurring[meter] goes with recurring[usage_type]=metered.",
                param="recurring[meter]",
            )
        if identity is not None:
            meter = self._objects.get(
                "billing.meter", identity, param="recurring[meter]", status=400
            )
            if meter["status"] != "active":
                raise invalid("The meter is inactive.", param="recurring[meter]")
        return {
            "interval": given["interval"],
            "interval_count": int(given.get("interval_count", 1)),
            "meter": identity,
            "usage_type": usage_type,
        }

    def _claim(self, form: dict[str, Any], besides: str | None = None) -> None:
        """Make sure that nobody else has the lookup key, or take it from them."""
        if len(form["lookup_key"]) > _LONGEST_LOOKUP_KEY:
            text = f"A lookup key has at most {_LONGEST_LOOKUP_KEY} characters."
            raise malformed(text, "parameter_invalid_string", "lookup_key")
        for price in self._objects.all("price"):
            if price["lookup_key"] != form["lookup_key"] or price["id"] == besides:
                continue
            if form.get("transfer_lookup_key") != "true":
                raise invalid(
                    f"A price ({price['id']}) already uses that lookup key.",
                    "resource_already_exists",
                    "lookup_key",
                )
            self._objects.save({**price, "lookup_key": None})

    def _add(self, noun: str, identity: str | None = None, **fields: Any) -> Object:
        return self._objects.save(
            {
                "id": identity or self._objects.new_id(noun),
                "object": noun,
                "created": int(self._clock.now()),
                "livemode": False,
                **fields,
            }
        )


def _amount(form: dict[str, Any]) -> Decimal:
    """What one unit costs, in cents; exactly one of the two ways to say it."""
    given = [form[it] for it in ("unit_amount", "unit_amount_decimal") if it in form]
    if len(given) != 1:
        raise invalid(
            "Exactly one of unit_amount and unit_amount_decimal.", param="unit_amount"
        )
    amount = Decimal(given[0])
    exponent = amount.normalize().as_tuple().exponent
    if amount < 0 or not isinstance(exponent, int) or -exponent > _MOST_DECIMALS:
        raise invalid(
            "Not negative, with at most 12 decimal places.",
            "parameter_invalid_decimal",
            "unit_amount_decimal",
        )
    return amount


def _check_metadata(form: dict[str, Any]) -> None:
    given = form.get("metadata") or {}
    longest_key = max(map(len, given), default=0)
    longest_value = max(map(len, given.values()), default=0)
    if (
        len(given) > _MOST_KEYS
        or longest_key > _LONGEST_KEY
        or longest_value > _LONGEST_VALUE
    ):
        text = "Metadata has up to 50 keys of up to 40 characters, values up to 500."
        raise malformed(text, "parameter_invalid_string", "metadata")


def _one_of(param: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        names = ", ".join(str(it) for it in allowed)
        raise malformed(
            f"Invalid {param}: must be one of {names}", "parameter_invalid_enum", param
        )
