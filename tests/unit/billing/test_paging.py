"""Page tokens of ListUsage."""

import pytest

from tollhouse.billing.paging import read_token, write_token
from tollhouse.core.usage import TokenUsage
from tollhouse.core.windows import Position, UsageRow


def test_a_token_names_the_row_it_was_made_from():
    row = UsageRow("acme", "llama-3.1/8b", 490_000, TokenUsage(), 1, 0, 0)

    assert Position("acme", 490_000, "llama-3.1/8b") == read_token(write_token(row))


def test_no_token_is_the_first_page():
    assert read_token("") is None


@pytest.mark.parametrize("token", ["x", "e30=", "WzFd", "äöü", "WyJhIiwxLCJiIl0"])
def test_other_text_is_refused(token: str):
    with pytest.raises(ValueError, match="page_token"):
        read_token(token)
