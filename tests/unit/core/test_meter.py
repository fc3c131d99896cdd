"""Names and prices of what the provider counts."""

import re
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from tests import examples
from tollhouse.core.catalog import MODEL_NAME, Catalog, Prices
from tollhouse.core.meter import event_name, meters, per_million
from tollhouse.core.windows import BILLED, TokenType

NAMES = st.from_regex(MODEL_NAME, fullmatch=True)


def test_a_plain_name_stays_readable():
    assert "tollhouse.llama-3.1-8b.output" == event_name(
        "llama-3.1-8b", TokenType.OUTPUT
    )


@given(NAMES, NAMES)
@example("a/b", "a:b")
@example("x" * 65, "x" * 66)
def test_no_two_models_share_a_meter(one, other):
    names = {event_name(it, TokenType.OUTPUT) for it in (one, other)}

    assert len({one, other}) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name)


def test_every_billed_type_has_a_meter_and_its_price():
    model = examples.model(prices=Prices(input=1000, cached_input=500, output=4000))
    found = meters(Catalog({model.name: model}, {}))

    assert list(BILLED) == [it.token_type for it in found]
    assert ["0.1", "0.05", "0.4"] == [str(it.price.normalize()) for it in found]


def test_a_price_has_no_rounding():
    """The smallest one: a ten-thousandth of the currency per million tokens."""
    smallest = per_million(Prices(input=1), TokenType.UNCACHED_INPUT)

    assert Decimal("0.0001") == smallest
