"""Token counts, their weights, and the facts of an exchange."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tollhouse.core.limits import Debit, Measure, Scope
from tollhouse.core.problems import ProtocolError
from tollhouse.core.usage import Facts, TokenUsage, decode_facts

FACTS = Facts(
    tenant="acme",
    key_id="k1",
    plan="demo",
    operation="chat",
    requested_model="tiny",
    served_model="tiny-2",
    cluster="tiny",
    provider="triton",
    weights=(1, 0, 5),
    prices=(3, 1, 7),
    reserved_units=110,
    input_estimate=10,
    output_estimate=20,
    debits=(
        Debit(Scope.KEY, Measure.REQUESTS, 60),
        Debit(Scope.TENANT, Measure.UNITS_PER_DAY, 20261120),
        Debit(Scope.MODEL, Measure.CAPACITY, 4),
    ),
)

tokens = st.integers(0, 10**6)
usages = st.builds(TokenUsage, tokens, tokens, tokens, tokens)


@pytest.mark.parametrize(
    ("usage", "weights", "units"),
    [
        (TokenUsage(10, 20), (1, 0, 5), 110),
        (TokenUsage(10, 20, 4, 7), (1, 0, 5), 106),
        (TokenUsage(10, 20, 4, 7), (1, 1, 5), 110),
        (TokenUsage(10, 0, 10), (3, 1, 5), 10),
        (TokenUsage(10, 0, 99), (3, 1, 5), 10),
        (TokenUsage(), (3, 1, 5), 0),
    ],
)
def test_units_weigh_each_token_once(usage, weights, units):
    """Cached is a part of the input, and no larger; reasoning is output like any."""
    assert units == usage.units(weights)


@given(usages, usages)
def test_difference_and_maximum_are_of_each_count(one, other):
    most = one.at_least(other)

    assert TokenUsage() == one - one
    for name in TokenUsage.__slots__:
        values = [getattr(one, name), getattr(other, name)]
        assert max(values) == getattr(most, name)
        assert values[0] - values[1] == getattr(one - other, name)


def test_facts_are_compact_json():
    """They travel in a header-sized string through Envoy's log, and are read back."""
    text = FACTS.encode()

    assert FACTS == decode_facts(text) == decode_facts(text.decode())
    assert b"\n" not in text
    assert {
        "w": [1, 0, 5],
        "p": [3, 1, 7],
        "units": 110,
        "in": 10,
        "out": 20,
        "debits": [[1, 1, 60], [2, 4, 20261120], [4, 8, 4]],
    }.items() <= json.loads(text).items()


def test_facts_end_in_their_debits():
    """RESERVE adds them where the others end; what is usual is left out."""
    bare = replace(FACTS, debits=())

    assert FACTS.encode().startswith(bare.encode()[:-1] + b',"debits":[[')
    assert bare == decode_facts(bare.encode())
    assert {"bytes", "framing", "n", "cap", "debits"}.isdisjoint(
        json.loads(bare.encode())
    )


@pytest.mark.parametrize("text", ["", "{}", b"\xff", '{"tenant":1}', "null"])
def test_other_text_is_nobodys_facts(text):
    with pytest.raises(ProtocolError):
        decode_facts(text)
