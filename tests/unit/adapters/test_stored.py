"""How exchanges kept by exchange.lua are read."""

import pytest

from tests.integration.limits.rig import facts
from tollhouse.adapters.redis.stored import Stored
from tollhouse.core.problems import ProtocolError

FACTS = facts()
TEXT = FACTS.encode().decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("S", Stored("S")),
        (b"X", Stored("X")),
        (f"R 100 220\n\n{TEXT}", Stored("R", 100, 220, facts=FACTS)),
        (
            f"A 7 0\n1 2 3 4 1 2 50 60 70\n{TEXT}".encode(),
            Stored("A", 7, 0, started_ms=50, ended_ms=70, facts=FACTS),
        ),
    ],
)
def test_what_is_known(text, expected):
    """Of one that is over nothing; of an open one the last beat's times, if any."""
    assert expected == Stored.parse(text)


@pytest.mark.parametrize(
    "text",
    [b"\xff", "R 1\n\n{}", f"R 1 x\n\n{TEXT}", "R 1 2\n3 x 4\n{}", "R 1 2\n\n{}"],
)
def test_what_cannot_be_read(text):
    """Whatever Redis holds there: one kind of error."""
    with pytest.raises(ProtocolError):
        Stored.parse(text)
