"""Exchange ids."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.ids import created_ms, exchange_id

MOMENTS = st.integers(min_value=0, max_value=2**48 - 1)
ENTROPY = st.binary(min_size=10, max_size=10)


@given(MOMENTS, ENTROPY)
def test_is_a_version_7_uuid_that_tells_its_time(moment, entropy):
    """RFC 9562: other tools must read our ids, and we the time in them."""
    id_ = exchange_id(moment, entropy)
    read = uuid.UUID(id_)

    assert (7, uuid.RFC_4122, id_) == (read.version, read.variant, str(read))
    assert moment == created_ms(id_)


@given(MOMENTS, ENTROPY, ENTROPY)
def test_differs_where_the_entropy_does(moment, one, other):
    """All 74 random bits count (10 bytes hold six more)."""
    mask = (1 << 74) - 1
    same = int.from_bytes(one) & mask == int.from_bytes(other) & mask

    assert same == (exchange_id(moment, one) == exchange_id(moment, other))


@pytest.mark.parametrize("text", ["", "x" * 36, str(uuid.UUID(int=4))])
def test_refuses_other_text(text):
    """A time read out of anything else would bill the wrong hour."""
    with pytest.raises(ValueError, match="version 7"):
        created_ms(text)
