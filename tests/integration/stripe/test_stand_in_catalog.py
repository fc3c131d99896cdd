"""Meters, products, prices and customers: made once, found again, refused if wrong."""

from decimal import Decimal

import pytest
import stripe

from tests.integration.stripe.sdk import WARNING, refused

pytestmark = pytest.mark.filterwarnings(WARNING)


def meter_params(event_name: str, **other):
    return {
        "display_name": "Tokens",
        "event_name": event_name,
        "default_aggregation": {"formula": "sum"},
        **other,
    }


async def test_a_meter_is_found_by_its_id(client):
    made = await client.v1.billing.meters.create_async(meter_params("tokens"))
    found = await client.v1.billing.meters.retrieve_async(made.id)

    assert made.to_dict() == found.to_dict()
    assert ("active", "sum") == (found.status, found.default_aggregation.formula)
    assert "stripe_customer_id" == found.customer_mapping.event_payload_key
    assert "value" == found.value_settings.event_payload_key


async def test_an_event_name_is_one_active_meters(client):
    """A second meter of that name would have to share its events."""
    create = client.v1.billing.meters.create_async
    first = await create(meter_params("tokens"))
    assert "event_name" == (await refused(create(meter_params("tokens")))).param
    await client.v1.billing.meters.deactivate_async(first.id)
    second = await create(meter_params("tokens"))

    assert first.id != second.id
    assert 400 == (
        (await refused(client.v1.billing.meters.deactivate_async(first.id))).http_status
    )


async def test_meters_come_in_pages_newest_first(stand_in, client):
    """The SDK's own iterator walks `has_more` and `starting_after`."""
    ids = [stand_in.add_meter(f"tokens_{number}") for number in range(25)]
    await client.v1.billing.meters.deactivate_async(ids[3])
    first = await client.v1.billing.meters.list_async({"limit": 10})
    everything = [it.id async for it in first.auto_paging_iter()]

    assert (10, True) == (len(first.data), first.has_more)
    assert ids[::-1] == everything
    active = await client.v1.billing.meters.list_async(
        {"limit": 100, "status": "active"}
    )
    assert (24, False) == (len(active.data), active.has_more)
    inactive = await client.v1.billing.meters.list_async({"status": "inactive"})
    assert [ids[3]] == [it.id for it in inactive.data]
    before = await client.v1.billing.meters.list_async(
        {"limit": 2, "ending_before": ids[20]}
    )
    assert [ids[22], ids[21]] == [it.id for it in before.data]


@pytest.mark.parametrize("limit", [0, 101])
async def test_a_page_has_from_1_to_100_rows(client, limit):
    error = await refused(client.v1.billing.meters.list_async({"limit": limit}))

    assert (400, "limit") == (error.http_status, error.param)


async def test_what_nobody_made_is_a_404(client):
    for service, identity in (
        (client.v1.billing.meters, "mtr_none"),
        (client.v1.customers, "cus_none"),
        (client.v1.products, "prod_none"),
        (client.v1.prices, "price_none"),
    ):
        error = await refused(service.retrieve_async(identity))
        assert (404, "resource_missing") == (error.http_status, error.code)


async def test_a_product_may_have_an_id_of_our_choice(client):
    """What makes setting up a catalogue safe to repeat."""
    params = {"id": "tollhouse-small", "name": "Small model"}
    assert "tollhouse-small" == (await client.v1.products.create_async(params)).id
    error = await refused(client.v1.products.create_async(params))

    assert "resource_already_exists" == error.code


@pytest.fixture
async def product(client) -> str:
    return (await client.v1.products.create_async({"name": "Small model"})).id


def price_params(product: str, meter: str, **other):
    return {
        "currency": "usd",
        "product": product,
        "unit_amount_decimal": Decimal("0.000015"),
        "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
        "lookup_key": "tollhouse:small:input",
        **other,
    }


async def test_a_metered_price_keeps_fractions_of_a_cent(client, product, meter):
    price = await client.v1.prices.create_async(price_params(product, meter))
    found = await client.v1.prices.retrieve_async(price.id)

    assert Decimal("0.000015") == found.unit_amount_decimal
    assert found.unit_amount is None
    assert (meter, "metered") == (found.recurring.meter, found.recurring.usage_type)


@pytest.mark.parametrize(
    ("given", "whole"), [("200", 200), ("2E+2", None), ("0.5", None)]
)
async def test_amounts_are_plain_decimals(client, product, given, whole):
    """An exponent is no decimal of theirs, whole cents also come as an integer."""
    create = client.v1.prices.create_async(
        {
            "currency": "usd",
            "product": product,
            "unit_amount_decimal": Decimal(given),
        }
    )
    if "E" in given:
        error = await refused(create)
        assert "parameter_invalid_decimal" == error.code
    else:
        assert whole == (await create).unit_amount


@pytest.mark.parametrize(
    "wrong",
    [
        {"currency": "dollars"},
        {"product": "prod_none"},
        {"unit_amount": 1},
        {"unit_amount_decimal": Decimal(-1)},
        {"unit_amount_decimal": "0.0000000000001"},
        {"recurring": {"interval": "month", "usage_type": "metered"}},
        {"recurring": {"interval": "fortnight"}},
        {
            "recurring": {
                "interval": "month",
                "usage_type": "metered",
                "meter": "mtr_none",
            }
        },
    ],
)
async def test_a_wrong_price_is_refused(stand_in, client, product, meter, wrong):
    params = {**price_params(product, meter), **wrong}
    error = await refused(client.v1.prices.create_async(params))

    assert 400 == error.http_status
    assert [] == stand_in.objects.all("price")


async def test_a_price_can_not_use_an_inactive_meter(client, product, meter):
    await client.v1.billing.meters.deactivate_async(meter)
    error = await refused(client.v1.prices.create_async(price_params(product, meter)))

    assert "recurring[meter]" == error.param


async def test_a_lookup_key_is_one_prices_until_it_is_transferred(
    client, product, meter
):
    """How a price changes: a new one takes the key over."""
    create = client.v1.prices.create_async
    old = await create(price_params(product, meter))
    assert "lookup_key" == (await refused(create(price_params(product, meter)))).param
    new = await create(price_params(product, meter, transfer_lookup_key=True))
    await client.v1.prices.update_async(old.id, {"active": False})

    assert (await client.v1.prices.retrieve_async(old.id)).lookup_key is None
    by_key = {"lookup_keys": ["tollhouse:small:input", "another"]}
    assert [new.id] == [
        it.id for it in (await client.v1.prices.list_async(by_key)).data
    ]
    for active, expected in ((True, new.id), (False, old.id)):
        page = await client.v1.prices.list_async({"active": active, "product": product})
        assert [expected] == [it.id for it in page.data]


async def test_customers_carry_metadata_that_is_merged(client):
    create = client.v1.customers.create_async
    made = await create({"name": "Acme", "metadata": {"tenant": "acme", "x": "1"}})
    update = client.v1.customers.update_async
    changed = await update(made.id, {"metadata": {"x": "", "y": "2"}})

    assert {"tenant": "acme", "y": "2"} == changed.metadata.to_dict()
    assert "Acme" == changed.name
    await create({})
    listed = await client.v1.customers.list_async({"limit": 1})
    assert listed.has_more


@pytest.mark.parametrize(
    "metadata",
    [
        {f"k{number}": "v" for number in range(51)},
        {"k" * 41: "v"},
        {"k": "v" * 501},
    ],
)
async def test_metadata_has_limits(client, customer, metadata):
    for call in (
        client.v1.customers.create_async({"metadata": metadata}),
        client.v1.customers.update_async(customer, {"metadata": metadata}),
        client.v1.products.create_async({"name": "x", "metadata": metadata}),
    ):
        assert "metadata" == (await refused(call)).param


async def test_lookup_keys_have_limits(client, product, meter):
    """200 characters each, 10 a question."""
    params = price_params(product, meter, lookup_key="k" * 201)
    error = await refused(client.v1.prices.create_async(params))
    assert "lookup_key" == error.param
    error = await refused(client.v1.prices.list_async({"lookup_keys": 11 * ["k"]}))
    assert "lookup_keys" == error.param


async def test_a_deleted_customer_says_so(client, customer):
    await client.v1.customers.delete_async(customer)

    assert (await client.v1.customers.retrieve_async(customer)).deleted
    assert [] == (await client.v1.customers.list_async()).data
    error = await refused(client.v1.customers.update_async(customer, {"name": "x"}))
    assert 400 == error.http_status


async def test_a_parameter_we_do_not_honour_is_a_501(stand_in, client):
    """Ignored, it would let a test pass for the wrong reason."""
    error = await refused(client.v1.customers.create_async({"phone": "1"}))

    assert (501, stripe.APIError) == (error.http_status, type(error))
    assert {"unsupported": 1} == stand_in.counts
