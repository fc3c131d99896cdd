"""What the keyring promises beside the states: changes at once, told, readable."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.integration.identity.lossy_redis import running_lossy
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.changes import CHANGED
from tollhouse.adapters.redis.keyring import (
    Keyring,
    KeyringError,
    NotThereError,
    TakenError,
)
from tollhouse.adapters.redis.new_keys import draw_key
from tollhouse.adapters.redis.records import key_id_entry
from tollhouse.core.entitlement import Override
from tollhouse.core.key_terms import TermsError

PEPPER = Pepper({"v2": b"n" * 32, "v1": b"o" * 32})
OLD = Pepper({"v1": b"o" * 32})


@pytest.fixture
def ring(redis_url: str):
    it = Keyring(redis_url, PEPPER, who="test")
    it.create_tenant("acme", "demo")
    yield it
    it.close()


@pytest.fixture
def raw(redis_url: str):
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@contextlib.contextmanager
def standing(url: str, now: float) -> Iterator[Keyring]:
    """A keyring whose clock stands still."""
    it = Keyring(url, PEPPER, who="test", clock=lambda: now)
    with contextlib.closing(it):
        yield it


def at_once(works: list[Callable[[], object]]) -> list[Any]:
    """Run all at the same moment; what each returned or raised."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return work()
        except KeyringError as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def log_of(ring: Keyring, key_id: str) -> list[str]:
    entries, _ = ring.log.latest(100, key_id=key_id)
    return [it.action for it in reversed(entries)]


def test_rotated_by_two_at_once(ring: Keyring):
    """One of them makes the successor, the others are told which one."""
    for _ in range(20):
        _, old = ring.create_key("acme")
        done = at_once([partial(ring.rotate, old.key_id)] * 4)
        made = [it for it in done if not isinstance(it, KeyringError)]
        successor = ring.key(old.key_id).rotated_to

        assert len(made) == 1
        assert made[0].new.key_id == successor
        assert successor is not None
        assert ring.find(made[0].key) == ring.key(successor)
        assert all(successor in str(it) for it in done if it is not made[0])
        assert log_of(ring, old.key_id) == ["key.created", "key.rotated"]
    assert len(ring.keys("acme")) == 40


def test_rotated_and_revoked_at_once(ring: Keyring):
    """Whoever comes first, the old key is over, with a successor or without one."""
    for _ in range(20):
        _, old = ring.create_key("acme")
        rotated, revoked, again = at_once(
            [
                partial(ring.rotate, old.key_id),
                partial(ring.revoke, old.key_id),
                partial(ring.revoke, old.key_id),
            ]
        )
        record = ring.key(old.key_id)

        assert record.revoked_at is not None
        assert sorted([revoked[1], again[1]]) == [False, True]
        if isinstance(rotated, KeyringError):
            assert record.rotated_to is None
            assert log_of(ring, old.key_id) == ["key.created", "key.revoked"]
        else:
            assert ring.key(rotated.new.key_id).state(record.revoked_at) == "active"
            assert log_of(ring, old.key_id)[1:] == ["key.rotated", "key.revoked"]


def test_created_while_its_tenant_is_deleted(ring: Keyring):
    """No key of a deleted tenant stays good."""
    for number in range(20):
        name = f"t{number}"
        ring.create_tenant(name, "demo")
        at_once(
            [
                partial(ring.create_key, name),
                partial(ring.delete_tenant, name),
                partial(ring.create_key, name),
            ]
        )

        assert {it.state(0.0) for it in ring.keys(name)} <= {"revoked"}


def test_told(ring: Keyring, raw):
    """Each change is published once it is made; what changes nothing is not."""
    told = raw.pubsub(ignore_subscribe_messages=True)
    told.subscribe(CHANGED)
    assert told.get_message(timeout=30) is None  # the subscription itself

    def heard() -> list[str]:
        found = []
        while (message := told.get_message(timeout=0.05)) is not None:
            found.append(message["data"])
        return found

    _, record = ring.create_key("acme")
    assert heard() == [f"key {record.key_id}"]
    made = ring.rotate(record.key_id)
    assert heard() == [f"key {made.new.key_id}", f"key {record.key_id}"]
    ring.override_key(record.key_id, lambda _: Override(concurrent=1))
    ring.override_key(record.key_id, lambda _: Override(concurrent=1))
    assert heard() == [f"key {record.key_id}"]
    ring.suspend_tenant("acme", "late")
    ring.suspend_tenant("acme", "later")
    ring.change_tenant("acme", plan="demo")
    assert heard() == ["tenant acme"]
    ring.override_tenant("acme", None, lambda _: Override(concurrent=1))
    ring.change_tenant("acme", plan="gold")
    assert heard() == ["tenant acme"] * 2
    ring.revoke(record.key_id)
    ring.revoke(record.key_id)
    assert heard() == [f"key {record.key_id}"]
    ring.delete_tenant("acme")
    assert heard() == ["tenant acme", f"key {made.new.key_id}"]
    told.close()


def test_successor(redis_url: str):
    """It allows what the old one does, and no more; the old one ends with the grace."""
    with standing(redis_url, 1000.0) as ring:
        ring.create_tenant("acme", "demo")
        _, old = ring.create_key(
            "acme",
            scopes="chat:write=tiny-*",
            plan="gold",
            expires_at=9000.0,
            networks=["203.0.113.0/24"],
            labels=["ci", "eu"],
        )
        ring.override_key(old.key_id, lambda _: Override(concurrent=3))
        made = ring.rotate(old.key_id, grace_seconds=60)
        late = ring.rotate(made.new.key_id, grace_seconds=1e6, expires_at=5000.0)

        assert (
            made.new.scopes,
            made.new.plan,
            made.new.networks,
            made.new.labels,
            made.new.override,
            made.new.expires_at,
            made.new.rotated_from,
        ) == (
            "chat:write=tiny-*",
            "gold",
            "203.0.113.0/24",
            ("ci", "eu"),
            Override(concurrent=3),
            9000.0,
            old.key_id,
        )
        assert ring.key(old.key_id).expires_at == 1060.0
        assert late.old.expires_at == 9000.0  # the grace makes no key live longer
        assert late.new.expires_at == 5000.0


def test_successor_once_more(redis_url: str):
    """The grace of the first rotation ends no second successor."""
    with standing(redis_url, 1000.0) as ring:
        ring.create_tenant("acme", "demo")
        _, endless = ring.create_key("acme")
        _, bound = ring.create_key("acme", expires_at=9000.0)
        _, given = ring.create_key("acme", expires_at=9000.0)
        for key, expires_at in ((endless, None), (bound, None), (given, 5000.0)):
            first = ring.rotate(key.key_id, grace_seconds=60, expires_at=expires_at)
            ring.rotate(first.new.key_id, grace_seconds=60)
            ring.revoke(first.new.key_id)
        again = [
            ring.rotate(key.key_id, grace_seconds=60, again=True)
            for key in (endless, bound, given)
        ]
        sooner = ring.rotate(bound.key_id, expires_at=3000.0, again=True)

    assert [made.new.expires_at for made in again] == [None, 9000.0, 5000.0]
    assert [made.old.expires_at for made in again] == [1060.0] * 3
    assert sooner.new.expires_at == 3000.0


def test_successor_of_one_that_is_over(redis_url: str):
    """None is made that opens nothing."""
    with standing(redis_url, 1000.0) as ring:
        ring.create_tenant("acme", "demo")
        _, record = ring.create_key("acme")
        first = ring.rotate(record.key_id, grace_seconds=5000, expires_at=1500.0)
        ring.revoke(first.new.key_id)
    with standing(redis_url, 2000.0) as ring:
        with pytest.raises(KeyringError, match=f"{first.new.key_id}.* --expires"):
            ring.rotate(record.key_id, again=True)
        made = ring.rotate(record.key_id, again=True, expires_at=9000.0)

    assert made.new.expires_at == 9000.0


def test_lost_answers(ring: Keyring, redis_server, tmp_path: Path):
    """What was done although nobody heard of it is done once, and says so."""
    with running_lossy(tmp_path / "r", redis_server.socket_path) as lossy:
        mine = Keyring(lossy.url, PEPPER, who="test")
        with contextlib.closing(mine):
            mine.tenants()  # connected
            lossy.to_lose = 1
            key, record = mine.create_key("acme", request_id="1")
            lossy.to_lose = 1
            made = mine.rotate(record.key_id, expires_at=9e9)
            assert not lossy.to_lose

    assert ring.find(key) == made.old
    assert ring.find(made.key) == made.new
    assert (made.new.rotated_from, made.old.rotated_to) == (
        *(record.key_id, made.new.key_id),
    )
    assert len(ring.keys("acme")) == 2
    assert log_of(ring, record.key_id) == ["key.created", "key.rotated"]


def test_not_rotated(ring: Keyring):
    """A key that is over, or has a successor, gets none by mistake."""
    _, record = ring.create_key("acme")
    first = ring.rotate(record.key_id)
    with pytest.raises(KeyringError, match=first.new.key_id):
        ring.rotate(record.key_id)
    second = ring.rotate(record.key_id, again=True)

    assert ring.key(record.key_id).rotated_to == second.new.key_id
    ring.rotate(first.new.key_id, grace_seconds=0)
    with pytest.raises(KeyringError, match="is expired; create a new one"):
        ring.rotate(first.new.key_id, again=True)
    ring.revoke(second.new.key_id)
    with pytest.raises(KeyringError, match="is revoked; create a new one"):
        ring.rotate(second.new.key_id)
    with pytest.raises(ValueError, match="grace: from 0 seconds"):
        ring.rotate(record.key_id, grace_seconds=-1)


def test_deleted_name(ring: Keyring):
    """It is not given again, and nothing about it changes any more."""
    ring.delete_tenant("acme")
    with pytest.raises(TakenError, match="was deleted, and bills carry its name"):
        ring.create_tenant("acme", "demo")
    for change in (
        lambda: ring.change_tenant("acme", plan="gold"),
        lambda: ring.resume_tenant("acme"),
        lambda: ring.suspend_tenant("acme"),
        lambda: ring.create_key("acme"),
        lambda: ring.override_tenant("acme", None, lambda _: Override(concurrent=1)),
    ):
        with pytest.raises(KeyringError, match="tenant acme was deleted"):
            change()

    assert ring.tenants() == []
    assert ring.tenant("acme").state == "deleted"


def test_deleted_with_many_keys(ring: Keyring, raw):
    """All of them end, and what an interruption left does when it is repeated."""
    keys = [ring.create_key("acme") for _ in range(450)]
    assert ring.delete_tenant("acme")[1:] == (450, True)
    assert {it.state(0.0) for it in ring.keys("acme")} == {"revoked"}
    left = keys[300]
    raw.hset(f"th:key:{PEPPER.digest(left[0])}", "revoked_at", "")

    assert ring.delete_tenant("acme")[1:] == (1, False)
    assert ring.delete_tenant("acme")[1:] == (0, False)
    assert ring.key(left[1].key_id).revoked_at is not None


def test_request_id(ring: Keyring):
    """A request that is sent again makes no second key; another tenant's is another."""
    _, record = ring.create_key("acme", request_id="r1")
    with pytest.raises(TakenError, match=f"made key {record.key_id}"):
        ring.create_key("acme", request_id="r1")
    ring.create_tenant("beta", "demo")
    ring.create_key("beta", request_id="r1")

    assert len(ring.keys("acme")) == 1


def test_records_of_the_release_before(ring: Keyring, raw):
    """One `label`, no networks, no successor: read, and changed, as it is."""
    key = draw_key()[1]
    digest, key_id = OLD.digest(key), key.split("_")[1]
    raw.hset(
        f"th:key:{digest}",
        mapping={
            "key_id": key_id,
            "tenant": "acme",
            "plan": "",
            "scopes": "chat:write",
            "label": "ci",
            "created_at": "1000.5",
            "expires_at": "",
            "revoked_at": "",
        },
    )
    raw.set(f"th:keyid:{key_id}", digest)
    raw.sadd("th:keys:acme", key_id)
    raw.hset(
        "th:tenant:old",
        mapping={"plan": "demo", "state": "active", "created_at": "1.5"},
    )
    raw.sadd("th:tenants", "old")

    assert ring.find(key) == ring.key(key_id)
    assert (ring.key(key_id).labels, ring.key(key_id).networks) == (("ci",), "")
    assert ring.rotate(key_id).new.labels == ("ci",)
    assert ring.suspend_tenant("old", "late")[0].reason == "late"
    assert [it.key_id for it in ring.keys(pepper="v1")] == [key_id]


def test_moved(ring: Keyring, redis_url: str, raw):
    """A key goes to the current pepper's digest, once, and only where it belongs."""
    early = Keyring(redis_url, OLD)
    key, record = early.create_key("acme")
    early.close()
    old, new = PEPPER.digests(key)[1], PEPPER.digest(key)
    assert old == OLD.digest(key)
    with pytest.raises(ValueError, match="v1 is not the pepper of new digests"):
        ring.move(new, old)
    with pytest.raises(ValueError, match="a digest is"):
        ring.move(old, "v2:123")
    assert ring.move(f"v1:{'0' * 64}", new) is None
    assert ring.move(new, f"v2:{'0' * 64}") is None  # only ever to a newer pepper

    moved = ring.move(old, new)
    assert moved is not None
    assert ring.move(old, new) is None
    assert (moved.pepper, ring.find(key)) == ("v2", moved)
    assert raw.get(f"th:keyid:{record.key_id}") == new
    assert not raw.exists(f"th:key:{old}")
    ring.revoke(record.key_id)
    assert log_of(ring, record.key_id) == ["key.created", "key.moved", "key.revoked"]


def test_not_moved_from_elsewhere(ring: Keyring, redis_url: str, raw):
    """What the key's id no longer leads to, or would replace another, stays."""
    early = Keyring(redis_url, OLD)
    key, record = early.create_key("acme")
    early.close()
    other, _ = ring.create_key("acme")
    old, new = OLD.digest(key), PEPPER.digest(key)

    assert ring.move(old, PEPPER.digest(other)) is None
    raw.set(f"th:keyid:{record.key_id}", f"v1:{'0' * 64}")
    assert ring.move(old, new) is None
    assert ring.find(other) is not None


def test_drawn_ids():
    """Ids of tokens' subjects begin with jwt: no key has such a one."""
    drawn = iter(["jwtabcdefghi", "abcdefghijkl", "s" * 43])

    assert draw_key(lambda _alphabet, _length: next(drawn)) == (
        "abcdefghijkl",
        f"th_abcdefghijkl_{'s' * 43}",
    )


def test_pages(ring: Keyring):
    """Every tenant and key is on one page, in order."""
    for name in ("beta", "gamma", "zeta"):
        ring.create_tenant(name, "demo")
        ring.create_key(name)
        ring.create_key(name)
    ring.delete_tenant("beta")
    assert [it.name for it in ring.tenants(limit=2)] == ["acme", "gamma"]
    assert [it.name for it in ring.tenants(after="gamma", limit=2)] == ["zeta"]

    seen, after = [], ("", "")
    while page := ring.keys_page(None, after=after, limit=2):
        seen += [(it.tenant, it.key_id) for it in page]
        after = seen[-1]
    keys = ring.keys()
    assert seen == sorted((it.tenant, it.key_id) for it in keys)
    with pytest.raises(NotThereError):
        ring.keys_page("nobody", after=("", ""), limit=2)


def test_a_key_without_a_record_ends_no_listing(ring: Keyring, redis_url: str):
    """A short page is the last one: whoever is behind it would be seen by nobody."""
    ring.create_tenant("beta", "demo")
    ids = sorted(ring.create_key("beta")[1].key_id for _ in range(6))
    with redis.Redis.from_url(redis_url) as client:
        client.delete(key_id_entry(ids[1]))

    page = ring.keys_page("beta", after=("", ""), limit=3)

    assert [it.key_id for it in page] == [ids[0], ids[2], ids[3]]


def test_a_page_reads_no_tenant_behind_it(ring: Keyring, redis_url: str):
    """A page of keys costs what is on it, however many tenants there are."""
    for name in ("beta", "gamma", "zeta"):
        ring.create_tenant(name, "demo")
        ring.create_key(name)
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        (page,) = ring.keys_page(None, after=("beta", ""), limit=1)
        reads = client.info("commandstats")["cmdstat_smembers"]["calls"]

    assert page.tenant == "beta"
    assert reads == 2  # the tenants' names, and one tenant's keys


def test_filters(redis_url: str):
    """By label, state and pepper, together."""
    with standing(redis_url, 1000.0) as ring:
        ring.create_tenant("acme", "demo")
        _, one = ring.create_key("acme", labels=["ci", "eu"])
        _, two = ring.create_key("acme", labels=["ci"])
        ring.rotate(two.key_id, grace_seconds=0)

        def ids(**filters: str) -> set[str]:
            return {it.key_id for it in ring.keys(**filters)}

        assert ids(label="eu") == {one.key_id}
        assert ids(label="ci", state="expired") == {two.key_id}
        assert len(ids(label="ci", state="active", pepper="v2")) == 2
        assert ids(pepper="v1") == set()


def test_all_faults(ring: Keyring):
    """What was asked for is refused whole, with each field that is wrong."""
    with pytest.raises(TermsError) as refused:
        ring.create_key(
            "acme",
            scopes="chat:wrte",
            plan="gold!",
            expires_at=1.0,
            networks=["10.0.0.1/8"],
            labels=["a"] + [str(it) for it in range(16)],
        )

    assert [field for field, _ in refused.value.faults] == [
        *("scopes", "plan", "expires_at", "networks", "labels")
    ]


def test_without_a_pepper(redis_url: str):
    """All but what makes or finds keys."""
    ring = Keyring(redis_url, None)
    ring.create_tenant("acme", "demo")
    for work in (
        lambda: ring.create_key("acme"),
        lambda: ring.rotate("a" * 12),
        lambda: ring.find("x"),
    ):
        with pytest.raises(KeyringError, match="without the pepper"):
            work()
    ring.close()
