"""Parameters against the SDK's types: missing, unknown, nested wrongly, no number."""

import pytest
import stripe
from stripe.params import PriceCreateParams, PriceListParams
from stripe.params.billing import MeterCreateParams, MeterEventCreateParams
from stripe.params.v2.billing import MeterEventStreamCreateParams

from tests.integration.stripe.sdk import WARNING, refused
from tests.stripe_stand_in.forms import parse_form
from tests.stripe_stand_in.params import _fields, violations
from tests.stripe_stand_in.refusals import Refusal
from tests.stripe_stand_in.routes import routes
from tests.stripe_stand_in.stand_in import StandIn

pytestmark = pytest.mark.filterwarnings(WARNING)

# Whose customers are named otherwise than by id.
BY_NAME = "&customer_mapping[type]=by_name&customer_mapping[event_payload_key]=a"
EVENT = "event_name=a&payload[value]=1&payload[stripe_customer_id]=c"
METER = "display_name=a&event_name=b"
PRICE = "currency=usd"


@pytest.mark.parametrize(
    ("params", "body", "expected"),
    [
        (MeterEventCreateParams, EVENT, []),
        (MeterEventCreateParams, f"{EVENT}&identifier=x&timestamp=5", []),
        (MeterEventCreateParams, "event_name=a", ["parameter_missing: payload"]),
        (MeterEventCreateParams, f"{EVENT}&bogus=1", ["parameter_unknown: bogus"]),
        (
            MeterEventCreateParams,
            f"{EVENT}&timestamp=soon",
            ["parameter_invalid_integer: timestamp"],
        ),
        (
            MeterEventCreateParams,
            f"{EVENT}&timestamp=1.5",
            ["parameter_invalid_integer: timestamp"],
        ),
        (
            MeterEventCreateParams,
            "event_name=a&payload=1",
            ["parameter_invalid_object: payload"],
        ),
        (
            MeterEventCreateParams,
            f"{EVENT}&identifier[x]=1",
            ["parameter_invalid_string: identifier"],
        ),
        (
            MeterEventCreateParams,
            f"{EVENT}&payload[deep][er]=1",
            ["parameter_invalid_string: payload[deep]"],
        ),
        (
            MeterCreateParams,
            f"{METER}&default_aggregation[x]=sum",
            [
                "parameter_missing: default_aggregation[formula]",
                "parameter_unknown: default_aggregation[x]",
            ],
        ),
        (
            MeterCreateParams,
            f"{METER}&default_aggregation=sum",
            ["parameter_invalid_object: default_aggregation"],
        ),
        (MeterCreateParams, f"{METER}&default_aggregation[formula]=sum", []),
        (
            MeterCreateParams,
            f"{METER}&default_aggregation[formula]=sum{BY_NAME}",
            ["parameter_invalid_enum: customer_mapping[type]"],
        ),
        (PriceCreateParams, f"{PRICE}&unit_amount_decimal=0.01&active=true", []),
        (
            PriceCreateParams,
            f"{PRICE}&unit_amount_decimal=1e-7",
            ["parameter_invalid_decimal: unit_amount_decimal"],
        ),
        (
            PriceCreateParams,
            f"{PRICE}&active=yes",
            ["parameter_invalid_boolean: active"],
        ),
        (
            PriceCreateParams,
            f"{PRICE}&tiers[0][up_to]=inf&tiers[1][up_to]=x&tiers[1][no]=1",
            [
                "parameter_invalid_enum: tiers[1][up_to]",
                "parameter_unknown: tiers[1][no]",
            ],
        ),
        (PriceListParams, "lookup_keys[0]=a&lookup_keys[1]=b&limit=3", []),
        (PriceListParams, "lookup_keys[]=a&lookup_keys[]=b", []),
        (PriceListParams, "lookup_keys=a", ["parameter_invalid_array: lookup_keys"]),
        (PriceListParams, "created[gte]=5", []),
        (PriceListParams, "created=5", []),
        (
            PriceListParams,
            "created[gte]=x",
            ["parameter_invalid_integer: created[gte]"],
        ),
        (PriceListParams, "created[around]=1", ["parameter_unknown: created[around]"]),
    ],
)
def test_forms(params, body, expected):
    """The first one of a union is not the only one that may fit."""
    assert expected == [str(it) for it in violations(params, parse_form(body))]


def test_json_of_v2():
    payload = {"value": "1"}
    events = [{"event_name": "a", "payload": payload}, {"payload": {"value": 1}}]

    assert [
        "parameter_missing: events[1][event_name]",
        "parameter_invalid_string: events[1][payload][value]",
    ] == [
        str(it) for it in violations(MeterEventStreamCreateParams, {"events": events})
    ]


@pytest.mark.parametrize("body", ["a]=1", "[a]=1", "a[b=1", "a=1&a[b]=2"])
def test_names_that_make_no_sense_are_refused(body):
    with pytest.raises(Refusal):
        parse_form(body)


def test_every_parameter_we_honour_is_one_of_the_sdks():
    """And every type of theirs can be read: a new SDK may move or rename some."""
    for route in routes(StandIn()):
        assert route.honoured <= set(_fields(route.params)), route.pattern.pattern


async def test_a_violation_is_a_400_and_is_remembered(stand_in, client, send):
    """A test asserts that there were none: a shipper that parks would hide it."""
    error = await refused(send("e1", timestamp="soon"))
    assert (400, "parameter_invalid_integer", "timestamp") == (
        error.http_status,
        error.code,
        error.param,
    )
    error = await refused(client.v1.billing.meters.create_async({"event_name": "x"}))
    assert "parameter_missing" == error.code
    error = await refused(client.v1.billing.meters.list_async({"colour": "red"}))
    assert isinstance(error, stripe.InvalidRequestError)
    assert "Received unknown parameter: colour" == error.user_message

    assert [
        "POST /v1/billing/meter_events: parameter_invalid_integer: timestamp",
        "POST /v1/billing/meters: parameter_missing: default_aggregation",
        "POST /v1/billing/meters: parameter_missing: display_name",
        "GET /v1/billing/meters: parameter_unknown: colour",
    ] == stand_in.violations
