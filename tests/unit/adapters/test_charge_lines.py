"""Lines of the billing ledger: what other programs read."""

import csv
import io
import json
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.adapters.charge_lines import (
    FOCUS_COLUMNS,
    Charge,
    Format,
    Priced,
    head,
    read,
    write,
)
from tollhouse.core.chunk import Account, Chunk, Window
from tollhouse.core.windows import TokenType

# 2026-12-31, the last hour of the year.
HOUR = 499_655
CHUNK = Chunk(
    window=Window("acme", "org/tiny:chat", TokenType.CACHED_INPUT, HOUR),
    seq=2,
    value=1_234_567,
    timestamp=HOUR * 3600 + 60,
    identifier="th1_08_00",
    event_name="tollhouse.tiny.cached_input",
    account=Account("ledger", "acme"),
)
PRICED = Priced(CHUNK, Decimal("0.0500"), "usd")
CHARGE = Charge("th1_08_00", "acme", CHUNK.event_name, CHUNK.timestamp, 1_234_567)


def focus(priced):
    text = head(Format.FOCUS) + write(priced, Format.FOCUS, "here")
    (row,) = csv.DictReader(io.StringIO(text))
    return row


def test_a_cloud_event():
    """Every required attribute of CloudEvents 1.0, and money as digits."""
    event = json.loads(write(PRICED, Format.CLOUDEVENTS, "here"))

    assert {
        "specversion": "1.0",
        "id": "th1_08_00",
        "source": "/tollhouse/here",
        "type": "tollhouse.usage.charged.v1",
        "subject": "acme",
        "time": "2026-12-31T23:01:00Z",
        "datacontenttype": "application/json",
        "data": {
            "tenant": "acme",
            "customer": "acme",
            "model": "org/tiny:chat",
            "token_type": "cached_input",
            "period_start": "2026-12-31T23:00:00Z",
            "period_end": "2027-01-01T00:00:00Z",
            "tokens": 1_234_567,
            "event_name": "tollhouse.tiny.cached_input",
            "price_per_million": "0.05",
            "cost": "0.06172835",
            "currency": "USD",
        },
    } == event


def test_a_focus_row():
    row = focus(PRICED)

    assert FOCUS_COLUMNS == tuple(row)
    assert {
        "BilledCost": "0.06172835",
        "BillingPeriodStart": "2026-12-01T00:00:00Z",
        "BillingPeriodEnd": "2027-01-01T00:00:00Z",
        "ChargeClass": "",
        "ChargePeriodStart": "2026-12-31T23:00:00Z",
        "ChargePeriodEnd": "2027-01-01T00:00:00Z",
        "ConsumedQuantity": "1234567",
        "PricingQuantity": "1.234567",
        "SkuId": "org/tiny:chat",
        "SkuMeter": "cached_input",
    }.items() <= row.items()


def test_a_negative_charge_is_a_correction():
    row = focus(replace(PRICED, chunk=replace(CHUNK, value=-10)))

    assert ("Correction", "-0.0000005") == (row["ChargeClass"], row["BilledCost"])


@pytest.mark.parametrize("format_", Format)
def test_a_model_that_is_gone_has_no_cost(format_):
    """Its tokens are charged for all that: somebody has to price them."""
    line = write(Priced(CHUNK, None, "usd"), format_, "here")

    assert CHARGE == read(line, format_)
    if format_ is Format.FOCUS:
        assert "" == focus(Priced(CHUNK, None, "usd"))["BilledCost"]


@given(
    st.sampled_from(Format),
    st.integers(-(2**53), 2**53),
    st.sampled_from(["acme", "cus_1,2", 'a"b']),
)
def test_a_line_is_read_back(format_, value, customer):
    chunk = replace(CHUNK, value=value, account=Account("ledger", customer))
    line = write(Priced(chunk, Decimal("0.1"), "usd"), format_, "here")

    assert replace(CHARGE, value=value, customer=customer) == read(line, format_)
    assert 1 == line.count("\n")


@pytest.mark.parametrize(
    ("line", "format_"),
    [
        ("", Format.CLOUDEVENTS),
        ("{}", Format.CLOUDEVENTS),
        ("[]", Format.CLOUDEVENTS),
        ('{"id": 1, "data": 3}', Format.CLOUDEVENTS),
        ("", Format.FOCUS),
        ("a,b,c", Format.FOCUS),
    ],
)
def test_other_lines_are_refused(line, format_):
    with pytest.raises(ValueError, match=r".*"):
        read(line, format_)
