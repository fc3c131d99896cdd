"""Which calls there are, the SDK's types of their parameters, and what we honour.

A parameter that the SDK knows and the stand-in does not is answered by a 501: ignoring
it would let a test pass for the wrong reason.
"""

import dataclasses
import functools
import re
from collections.abc import Awaitable, Callable, Iterator

from stripe.params import (
    CustomerCreateParams,
    CustomerDeleteParams,
    CustomerListParams,
    CustomerRetrieveParams,
    CustomerUpdateParams,
    PriceCreateParams,
    PriceListParams,
    PriceRetrieveParams,
    PriceUpdateParams,
    ProductCreateParams,
    ProductListParams,
    ProductRetrieveParams,
    ProductUpdateParams,
)
from stripe.params.billing import (
    MeterCreateParams,
    MeterDeactivateParams,
    MeterEventAdjustmentCreateParams,
    MeterEventCreateParams,
    MeterEventSummaryListParams,
    MeterListParams,
    MeterReactivateParams,
    MeterRetrieveParams,
    MeterUpdateParams,
)
from stripe.params.v2 import billing as v2
from stripe.params.v2.core import EventRetrieveParams

from tests.stripe_stand_in.event_endpoints import EventEndpoints
from tests.stripe_stand_in.object_endpoints import ObjectEndpoints, Request
from tests.stripe_stand_in.objects import Object
from tests.stripe_stand_in.stand_in import StandIn

Run = Callable[[Request], Awaitable[Object]]

_NOTHING: frozenset[str] = frozenset()
_PAGES = frozenset({"limit", "starting_after", "ending_before"})
_EVENT = frozenset({"event_name", "payload", "identifier", "timestamp"})
_METER = frozenset(
    {
        "display_name",
        "event_name",
        "default_aggregation",
        "customer_mapping",
        "value_settings",
        "event_time_window",
    }
)
_SUMMARY = frozenset({"customer", "start_time", "end_time", "value_grouping_window"})
_CUSTOMER = frozenset({"description", "email", "name", "metadata"})
_PRODUCT = frozenset({"name", "active", "description", "unit_label", "metadata"})
_OLD_PRICE = frozenset(
    {"active", "lookup_key", "metadata", "nickname", "transfer_lookup_key"}
)
_PRICE = _OLD_PRICE | {
    "currency",
    "product",
    "recurring",
    "tax_behavior",
    "unit_amount",
    "unit_amount_decimal",
}
_PRICES = _PAGES | {"active", "currency", "lookup_keys", "product", "recurring"}


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One call."""

    method: str
    pattern: re.Pattern[str]
    params: type
    honoured: frozenset[str]
    run: Run
    counted: str
    """The outcome of a success."""

    @property
    def v2(self) -> bool:
        """Whether it takes JSON and a repeat runs what failed again."""
        return self.pattern.pattern.startswith("/v2/")


def routes(stand_in: StandIn) -> list[Route]:
    """All of them."""
    objects = ObjectEndpoints(stand_in)
    return [*_events(EventEndpoints(stand_in)), *_meters(objects), *_objects(objects)]


def _events(do: EventEndpoints) -> Iterator[Route]:
    at = "/v1/billing/meter_events"
    params: type = MeterEventCreateParams
    yield _post(at, params, do.send_event, takes=_EVENT, counted="accepted")
    at, params = f"{at[:-1]}_adjustments", MeterEventAdjustmentCreateParams
    takes = frozenset({"cancel", "event_name", "type"})
    yield _post(at, params, do.cancel_event, takes=takes)
    at, params = "/v1/billing/meters/{id}/event_summaries", MeterEventSummaryListParams
    yield _get(at, params, do.summarize, takes=_PAGES | _SUMMARY)
    at, params = "/v2/billing/meter_events", v2.MeterEventCreateParams
    yield _post(at, params, do.send_event_v2, takes=_EVENT, counted="accepted")
    at, params = "/v2/billing/meter_event_session", v2.MeterEventSessionCreateParams
    yield _post(at, params, do.open_session)
    at, params = "/v2/billing/meter_event_stream", v2.MeterEventStreamCreateParams
    takes = frozenset({"events"})
    yield _post(at, params, do.stream, takes=takes, counted="streamed")
    yield _get("/v2/core/events/{id}", EventRetrieveParams, do.thin_event)


def _meters(do: ObjectEndpoints) -> Iterator[Route]:
    at, one = "/v1/billing/meters", "/v1/billing/meters/{id}"
    yield _post(at, MeterCreateParams, do.add_meter, takes=_METER)
    yield _get(at, MeterListParams, do.list_meters, takes=_PAGES | {"status"})
    yield _get(one, MeterRetrieveParams, _finder(do, "billing.meter"))
    takes = frozenset({"display_name"})
    yield _post(one, MeterUpdateParams, do.rename_meter, takes=takes)
    yield _post(f"{one}/deactivate", MeterDeactivateParams, do.deactivate_meter)
    yield _post(f"{one}/reactivate", MeterReactivateParams, do.reactivate_meter)


def _objects(do: ObjectEndpoints) -> Iterator[Route]:
    at, one = "/v1/customers", "/v1/customers/{id}"
    yield _post(at, CustomerCreateParams, do.add_customer, takes=_CUSTOMER)
    yield _get(at, CustomerListParams, do.list_customers, takes=_PAGES | {"email"})
    yield _get(one, CustomerRetrieveParams, _finder(do, "customer"))
    change = _changer(do, "customer")
    yield _post(one, CustomerUpdateParams, change, takes=_CUSTOMER)
    yield _route("DELETE", one, CustomerDeleteParams, do.delete_customer)

    at, one = "/v1/products", "/v1/products/{id}"
    yield _post(at, ProductCreateParams, do.add_product, takes=_PRODUCT | {"id"})
    takes = _PAGES | {"active", "ids"}
    yield _get(at, ProductListParams, do.list_products, takes=takes)
    yield _get(one, ProductRetrieveParams, _finder(do, "product"))
    change = _changer(do, "product")
    yield _post(one, ProductUpdateParams, change, takes=_PRODUCT)

    at, one = "/v1/prices", "/v1/prices/{id}"
    yield _post(at, PriceCreateParams, do.add_price, takes=_PRICE)
    yield _get(at, PriceListParams, do.list_prices, takes=_PRICES)
    yield _get(one, PriceRetrieveParams, _finder(do, "price"))
    change = _changer(do, "price")
    yield _post(one, PriceUpdateParams, change, takes=_OLD_PRICE)


def _route(
    method: str,
    path: str,
    params: type,
    run: Run,
    *,
    takes: frozenset[str] = _NOTHING,
    counted: str = "ok",
) -> Route:
    pattern = re.compile(path.replace("{id}", "([^/]+)"))
    return Route(method, pattern, params, takes, run, counted)


_post = functools.partial(_route, "POST")
_get = functools.partial(_route, "GET")


def _finder(do: ObjectEndpoints, noun: str) -> Run:
    async def run(request: Request) -> Object:
        return do.find(noun, request.ids[0])

    return run


def _changer(do: ObjectEndpoints, noun: str) -> Run:
    async def run(request: Request) -> Object:
        return do.change(noun, request.ids[0], request.form)

    return run
