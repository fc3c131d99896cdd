"""Names and prices of what the provider counts."""

import re
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from tests import examples
from tollhouse.core.catalog import MODEL_NAME, Catalog, Prices
from tollhouse.core.meter import (
    DEPLOYMENT_NAME,
    event_name,
    meters,
    per_million,
)
from tollhouse.core.windows import BILLED, TokenType

NAMES = st.from_regex(MODEL_NAME, fullmatch=True)
DEPLOYMENTS = st.from_regex(DEPLOYMENT_NAME, fullmatch=True)


def test_a_plain_name_stays_readable():
    assert "tollhouse.llama-3.1-8b.output" == event_name(
        "llama-3.1-8b", TokenType.OUTPUT
    )


@given(NAMES, NAMES, DEPLOYMENTS, st.sampled_from(BILLED))
@example("a/b", "a:b", "tollhouse", TokenType.OUTPUT)
@example("x" * 65, "x" * 66, "tollhouse", TokenType.OUTPUT)
@example("x" * 64, "x" * 65, "d" * 63, TokenType.UNCACHED_INPUT)
@example("x" * 12, "x" * 13, "d" * 63, TokenType.UNCACHED_INPUT)
def test_no_two_models_share_a_meter(one, other, deployment, token_type):
    names = {event_name(it, token_type, deployment) for it in (one, other)}

    assert len({one, other}) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name)


@given(NAMES, NAMES, DEPLOYMENTS, DEPLOYMENTS)
@example("b.m", "m", "a", "a-b")
def test_no_two_deployments_share_a_meter(model, other, one, another):
    """They may share an account, tenants and models."""
    names = {
        event_name(model, TokenType.OUTPUT, one),
        event_name(other, TokenType.OUTPUT, another),
    }

    assert len({(model, one), (other, another)}) == len(names)


def test_a_meter_has_its_deployments_name():
    model = examples.model()
    found = meters(Catalog({model.name: model}, {}), "eu")

    assert {f"eu.{model.name}.{it.value}" for it in BILLED} == {
        it.event_name for it in found
    }


def test_every_billed_type_has_a_meter_and_its_price():
    model = examples.model(prices=Prices(input=1000, cached_input=500, output=4000))
    found = meters(Catalog({model.name: model}, {}))

    assert list(BILLED) == [it.token_type for it in found]
    assert ["0.1", "0.05", "0.4"] == [str(it.price.normalize()) for it in found]


def test_a_price_has_no_rounding():
    """The smallest one: a ten-thousandth of the currency per million tokens."""
    smallest = per_million(Prices(input=1), TokenType.UNCACHED_INPUT)

    assert Decimal("0.0001") == smallest
