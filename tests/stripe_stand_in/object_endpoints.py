"""What each call on meters, customers, products and prices does once it was let in."""

import dataclasses
from typing import Any

from tests.stripe_stand_in.objects import Object
from tests.stripe_stand_in.refusals import malformed
from tests.stripe_stand_in.stand_in import StandIn

MOST_LOOKUP_KEYS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A call whose parameters have the right types."""

    path: str
    form: dict[str, Any]
    ids: tuple[str, ...]
    """What the path names."""
    idempotency_key: str | None


class ObjectEndpoints:
    """One method per call; each returns the answer's JSON or raises Refusal."""

    def __init__(self, stand_in: StandIn) -> None:
        self._catalog = stand_in.catalog
        self._objects = stand_in.objects

    def find(self, noun: str, identity: str) -> Object:
        """GET /v1/…/{id}."""
        return self._objects.get(noun, identity)

    def change(self, noun: str, identity: str, form: dict[str, Any]) -> Object:
        """POST /v1/…/{id}."""
        return self._catalog.change(noun, identity, form)

    async def add_meter(self, request: Request) -> Object:
        """POST /v1/billing/meters."""
        return self._catalog.add_meter(request.form)

    async def rename_meter(self, request: Request) -> Object:
        """POST /v1/billing/meters/{id}."""
        return self._catalog.rename_meter(request.ids[0], request.form)

    async def deactivate_meter(self, request: Request) -> Object:
        """POST /v1/billing/meters/{id}/deactivate."""
        return self._catalog.change_meter(request.ids[0], active=False)

    async def reactivate_meter(self, request: Request) -> Object:
        """POST /v1/billing/meters/{id}/reactivate."""
        return self._catalog.change_meter(request.ids[0], active=True)

    async def list_meters(self, request: Request) -> Object:
        """GET /v1/billing/meters."""
        status = request.form.get("status")
        return self._objects.page(
            "billing.meter",
            request.form,
            request.path,
            lambda it: status in (None, it["status"]),
        )

    async def add_customer(self, request: Request) -> Object:
        """POST /v1/customers."""
        return self._catalog.add_customer(request.form)

    async def delete_customer(self, request: Request) -> Object:
        """DELETE /v1/customers/{id}."""
        return self._catalog.delete_customer(request.ids[0])

    async def list_customers(self, request: Request) -> Object:
        """GET /v1/customers; deleted ones are not listed."""
        email = request.form.get("email")
        return self._objects.page(
            "customer",
            request.form,
            request.path,
            lambda it: not it.get("deleted") and email in (None, it["email"]),
        )

    async def add_product(self, request: Request) -> Object:
        """POST /v1/products."""
        return self._catalog.add_product(request.form)

    async def list_products(self, request: Request) -> Object:
        """GET /v1/products."""
        active, ids = request.form.get("active"), request.form.get("ids")
        return self._objects.page(
            "product",
            request.form,
            request.path,
            lambda it: (
                active in (None, str(it["active"]).lower())
                and (ids is None or it["id"] in ids)
            ),
        )

    async def add_price(self, request: Request) -> Object:
        """POST /v1/prices."""
        return self._catalog.add_price(request.form)

    async def list_prices(self, request: Request) -> Object:
        """GET /v1/prices."""
        form = request.form
        keys, recurring = form.get("lookup_keys"), form.get("recurring", {})
        if keys is not None and len(keys) > MOST_LOOKUP_KEYS:
            text = f"lookup_keys has at most {MOST_LOOKUP_KEYS} elements."
            raise malformed(text, "parameter_invalid_array", "lookup_keys")

        def fits(price: Object) -> bool:
            its = price["recurring"] or {}
            return (
                form.get("active") in (None, str(price["active"]).lower())
                and form.get("product") in (None, price["product"])
                and form.get("currency") in (None, price["currency"])
                and (keys is None or price["lookup_key"] in keys)
                and all(its.get(name) == value for name, value in recurring.items())
            )

        return self._objects.page("price", form, request.path, fits)
