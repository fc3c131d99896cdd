"""What a refusal repeats of what the client wrote."""

import pytest

from tollhouse.core.problems import Problem
from tollhouse.core.refusal import LONGEST_NAME, refuse, refuse_unsupported


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("text_input", "text_input"),
        ("n" * LONGEST_NAME, "n" * LONGEST_NAME),
        ("n" * 9_000, "n" * LONGEST_NAME + "…"),
        ("größe", "größe"),
        ("a\r\nb\0", "a\ufffd\ufffdb\ufffd"),
    ],
)
@pytest.mark.parametrize(
    "raising", [refuse_unsupported, lambda it: refuse("is wrong.", it)]
)
def test_a_name_is_short_and_printable(raising, name, shown):
    with pytest.raises(Problem) as caught:
        raising(name)

    assert shown == caught.value.param
    assert caught.value.message.startswith(f"`{shown}` is ")
