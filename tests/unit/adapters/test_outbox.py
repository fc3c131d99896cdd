"""Replies of XAUTOCLAIM, which differ between Redis versions."""

import pytest

from tollhouse.adapters.redis.outbox import FIRST, Claimed, Entry, _claimed

ITEM = [b"5-1", [b"id", b"abc", b"kind", b"1"]]
ENTRY = Entry(3, b"5-1", {b"id": b"abc", b"kind": b"1"})


@pytest.mark.parametrize(
    ("reply", "claimed"),
    [
        pytest.param(
            [b"0-0", [None, ITEM]],
            Claimed(3, [ENTRY], FIRST, has_deleted=True),
            id="6.2: deleted entries are nil and stay pending",
        ),
        pytest.param(
            [b"7-0", [ITEM], [b"4-1"]],
            Claimed(3, [ENTRY], b"7-0", has_deleted=False),
            id="7.0: deleted entries are named apart and are gone",
        ),
        pytest.param(
            [b"0-0", []], Claimed(3, [], FIRST, has_deleted=False), id="nothing stale"
        ),
    ],
)
def test_claimed_entries_of_every_version(reply: list[object], claimed: Claimed):
    assert claimed == _claimed(3, reply)
