"""How exchanges kept by exchange.lua are read."""

import pytest

from tests.integration.limits.rig import facts
from tollhouse.adapters.redis.stored import Stored
from tollhouse.core.problems import ProtocolError
from tollhouse.core.usage import CountSource, TokenUsage

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
            Stored("A", 7, 0, (1, 2, 3, 4, 1, 2, 50, 60, 70), FACTS),
        ),
    ],
)
def test_what_is_known(text, expected):
    """Of one that is over nothing; of an open one the last beat's times, if any."""
    assert expected == Stored.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        "R 1\n\n{}",
        f"R 1 x\n\n{TEXT}",
        "R 1 2\n3 x 4\n{}",
        "R 1 2\n\n{}",
        f"R 1 2\n3 4\n{TEXT}",
        f"R 1 2\n1 2 3 4 1 9 50 60 70\n{TEXT}",
    ],
)
def test_what_cannot_be_read(text):
    """Whatever Redis holds there: one kind of error."""
    with pytest.raises(ProtocolError):
        Stored.parse(text)


def test_the_last_beat_is_what_its_counts_say():
    """What an exchange that is reaped is billed for, and told of."""
    stored = Stored.parse(f"R 7 0\n9 7 3 4 1 2 50 60 70\n{TEXT}")
    untold = Stored.parse(f"R 7 0\n\n{TEXT}")

    beat = stored.last_beat("id")
    assert beat is not None
    assert TokenUsage(9, 7, 3, 4) == beat.usage
    assert (CountSource.BACKEND, CountSource.METER) == (
        beat.input_source,
        beat.output_source,
    )
    assert (50, 60, 70) == (beat.started_ms, beat.first_ms, beat.at_ms)
    assert (50, 70) == (stored.started_ms, stored.ended_ms)
    assert (0, 0, None) == (untold.started_ms, untold.ended_ms, untold.last_beat("id"))
