"""An audit log that can't take what is to be recorded stops every change."""

import contextlib
from typing import Any

import pytest
import redis

from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring, KeyringError


@pytest.fixture
def ring(redis_url: str):
    it = Keyring(redis_url, Pepper({"v1": b"o" * 32}), who="test")
    it.create_tenant("acme", "demo")
    yield it
    it.close()


@pytest.fixture
def raw(redis_url: str):
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def actions(ring: Keyring, key_id: str) -> list[str]:
    entries, _ = ring.log.latest(9, key_id=key_id)
    return [it.action for it in entries]


SPOILERS = [
    ("18446744073709551615-18446744073709551615",),
    # Gone at once: the ids are used up all the same.
    ("MAXLEN", 0, "18446744073709551615-18446744073709551615"),
    ("9999999999999-0",),
]


@pytest.mark.parametrize("spoiler", SPOILERS, ids=["last", "trimmed", "ahead"])
def test_spoiled_log(ring: Keyring, raw, spoiler):
    """What could not be recorded, or not under its time, is not done."""
    _, record = ring.create_key("acme")
    raw.execute_command("XADD", "th:audit", *spoiler, "a", "b")
    for change in (
        lambda: ring.create_tenant("beta", "demo"),
        lambda: ring.create_key("acme"),
        lambda: ring.rotate(record.key_id),
        lambda: ring.revoke(record.key_id),
        lambda: ring.suspend_tenant("acme"),
        lambda: ring.delete_tenant("acme"),
    ):
        with pytest.raises(KeyringError, match=r"entry of the future.*identity\.md"):
            change()
    assert [it.name for it in ring.tenants()] == ["acme"]
    assert ring.keys() == [record]
    assert ring.create_tenant("acme", "demo")[1] is False  # nothing to record

    raw.rename("th:audit", "th:audit:spoiled")  # the remedy
    ring.revoke(record.key_id)
    assert actions(ring, record.key_id) == ["key.revoked"]


def test_spoiled_meanwhile(ring: Keyring, raw, monkeypatch):
    """Also at the last moment before the change."""
    _, record = ring.create_key("acme")
    time_of = raw.time

    def late(self: object) -> Any:
        with contextlib.suppress(redis.ResponseError):  # the second time
            raw.execute_command("XADD", "th:audit", *SPOILERS[0], "a", "b")
        return time_of()

    monkeypatch.setattr(redis.client.Pipeline, "time", late)
    with pytest.raises(KeyringError, match="entry of the future"):
        ring.revoke(record.key_id)
    assert ring.key(record.key_id) == record


def test_log_a_little_ahead(ring: Keyring, raw):
    """A clock that was set back by hours stops nobody."""
    seconds, _ = raw.time()
    raw.xadd("th:audit", {"a": "b"}, id=f"{(seconds + 80_000) * 1000}-7")
    _, record = ring.create_key("acme")

    assert actions(ring, record.key_id) == ["key.created"]
