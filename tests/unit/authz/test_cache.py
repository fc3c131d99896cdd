"""What the cache remembers, for how long, and what it costs; the clock is by hand."""

import asyncio
import contextlib
from collections import Counter

import pytest
from structlog.testing import capture_logs

from tollhouse.authz.cache import (
    AHEAD_SECONDS,
    FRESH_SECONDS,
    KEPT_SECONDS,
    RETRY_SECONDS,
    TELL_SECONDS,
    Cache,
    Lookup,
    Unasked,
    Undecided,
)
from tollhouse.core.problems import ProtocolError, Unavailable


class Store:
    """What is looked up: values, outages, and a count of questions."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.failure: Exception | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.gate: asyncio.Event | None = None
        """What an answer waits for on its way back."""
        self.answered: asyncio.Event | None = None
        self.now = 1000.0

    async def find(self, digest: str, value: str | None) -> str | None:
        self.asked.append((digest, value))
        failure, found = self.failure, self.values.get(digest)
        if self.answered is not None:
            self.answered.set()
        if self.gate is not None:
            await self.gate.wait()
        if failure is not None:
            raise failure
        return found

    def clock(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    return Store()


class Remembered:
    """A cache in front of the store; values go by the name of their owner.

    `is_short`: it is asked as authz does, by the short way first.
    """

    def __init__(self, store: Store, *, is_short: bool) -> None:
        self._store = store
        self._is_short = is_short
        self.lookups = Counter[Lookup]()
        self.cache = Cache[str](
            lambda value: (f"key {value.lower()}", "tenant acme"),
            most_known=3,
            most_unknown=3,
            clock=store.clock,
            lookups=self.lookups,
        )

    async def get(self, digest: str) -> str | None:
        fresh = self.cache.fresh(digest) if self._is_short else None
        return fresh or await self.cache.get(
            digest, f"key {digest}", lambda value: self._store.find(digest, value)
        )


@pytest.fixture(params=[False, True], ids=["get", "fresh"])
def cache(store: Store, request: pytest.FixtureRequest) -> Remembered:
    return Remembered(store, is_short=request.param)


async def settle() -> None:
    """Let background look-ups end."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_known(store, cache):
    """Fresh values are answered from memory."""
    store.values["a"] = "A"

    assert [await cache.get("a") for _ in range(5)] == ["A"] * 5
    assert store.asked == [("a", None)]


async def test_the_short_way(store, cache):
    """It knows what is fresh, and leaves all else to `get`."""
    store.values |= {"a": "A", "b": "B"}
    for digest in ("a", "b", "c"):
        await cache.get(digest)
    assert [cache.cache.fresh(it) for it in "abcd"] == ["A", "B", None, None]
    store.now += AHEAD_SECONDS - 0.01
    cache.cache.changed("key b")
    assert [cache.cache.fresh(it) for it in "ab"] == ["A", None]
    store.now += 0.01
    assert cache.cache.fresh("a") is None


async def test_lookups_are_counted_by_what_was_known(store, cache):
    """What Redis is asked ahead of time, nobody waits for: a hit. So is living on."""
    store.values["a"] = "A"
    for digest in ("a", "a", "b", "b", "b"):
        await cache.get(digest)
    store.now += AHEAD_SECONDS
    await cache.get("a")
    await settle()
    store.now += FRESH_SECONDS
    store.failure = Unavailable("away")
    await cache.get("a")
    await cache.get("a")

    assert {Lookup.MISS: 3, Lookup.HIT: 3, Lookup.NEGATIVE: 2} == cache.lookups


async def test_unknown(store, cache):
    """So is that there is none, for the same time, and not longer."""
    assert await cache.get("a") is None
    store.values["a"] = "A"
    store.now += FRESH_SECONDS - 0.01
    assert await cache.get("a") is None
    store.now += 0.01

    assert await cache.get("a") == "A"
    assert len(store.asked) == 2


async def test_ahead(store, cache):
    """A value in use is looked up again before it is stale; nobody waits."""
    store.values["a"] = "A"
    await cache.get("a")
    store.now += AHEAD_SECONDS
    store.gate = asyncio.Event()
    assert await cache.get("a") == "A"
    assert await cache.get("a") == "A"
    store.values["a"] = "B"
    store.gate.set()
    await settle()

    assert await cache.get("a") == "B"
    assert store.asked == [("a", None), ("a", "A")]


async def test_stale(store, cache):
    """A stale value is never answered while Redis can be asked."""
    store.values["a"] = "A"
    await cache.get("a")
    del store.values["a"]
    store.now += FRESH_SECONDS

    assert await cache.get("a") is None


async def test_gone_is_gone(store, cache):
    """A key once seen as gone never comes back by an outage."""
    store.values["a"] = "A"
    await cache.get("a")
    del store.values["a"]
    store.now += AHEAD_SECONDS
    await cache.get("a")
    await settle()
    assert await cache.get("a") is None
    store.failure = Unavailable("away")
    store.now += FRESH_SECONDS

    with pytest.raises(Unavailable):
        await cache.get("a")


async def test_age_counts_from_the_question(store, cache):
    """An answer that took long is as old as its question."""
    store.values["a"] = "A"
    store.gate = asyncio.Event()
    first = asyncio.create_task(cache.get("a"))
    await settle()
    store.now += FRESH_SECONDS
    store.gate.set()
    assert await first == "A"
    await cache.get("a")

    assert len(store.asked) == 2


async def test_single_flight(store, cache):
    """However many ask, one look-up per key is under way."""
    store.values["a"] = "A"
    store.gate = asyncio.Event()
    many = [asyncio.create_task(cache.get("a")) for _ in range(50)]
    await settle()
    store.gate.set()

    assert await asyncio.gather(*many) == ["A"] * 50
    assert len(store.asked) == 1


async def test_a_client_leaves(store, cache):
    """One who gives up does not take the look-up of the others with it."""
    store.values["a"] = "A"
    store.gate = asyncio.Event()
    leaves, stays = (asyncio.create_task(cache.get("a")) for _ in range(2))
    await settle()
    leaves.cancel()
    await settle()
    store.gate.set()

    assert await stays == "A"
    assert leaves.cancelled()


async def test_unknown_evict_unknown_only(store, cache):
    """Whoever tries keys can't push out a known one, nor fill the memory."""
    store.values["a"] = "A"
    await cache.get("a")
    for number in range(100):
        assert await cache.get(f"bad-{number}") is None
    store.failure = Unavailable("away")

    assert await cache.get("a") == "A"
    assert len(cache.cache._unknown) == 3
    assert len(cache.cache._known) == 1


async def test_known_are_bounded(store, cache):
    """Of too many known keys the one unused for longest goes."""
    store.values.update(a="A", b="B", c="C", d="D")
    for digest in ("a", "b", "c", "a", "d"):
        await cache.get(digest)
    store.asked.clear()
    for digest in ("a", "c", "d", "b"):
        await cache.get(digest)

    assert store.asked == [("b", None)]


async def test_away(store, cache):
    """Redis away: known keys go on for the stated time; then nothing can be said."""
    store.values["a"] = "A"
    await cache.get("a")
    begin = store.now
    store.failure = Unavailable("away")
    for age in (FRESH_SECONDS, 10.0, KEPT_SECONDS - 0.01):
        store.now = begin + age
        assert await cache.get("a") == "A"
    store.now = begin + KEPT_SECONDS

    with pytest.raises(Unavailable):
        await cache.get("a")


async def test_away_unknown(store, cache):
    """Redis away: no other key is called unknown, not even one that just was."""
    assert await cache.get("a") is None
    store.failure = Unavailable("away")
    store.now += FRESH_SECONDS
    for digest in ("a", "b"):
        with pytest.raises(Unavailable):
            await cache.get(digest)


async def test_back(store, cache):
    """Redis back: one question finds it out, the next is answered from it."""
    store.values["a"] = "A"
    await cache.get("a")
    store.failure = Unavailable("away")
    store.now += 100
    await cache.get("a")
    store.failure = None
    del store.values["a"]
    store.now += RETRY_SECONDS
    assert await cache.get("a") == "A"
    await settle()

    assert await cache.get("a") is None


async def test_nobody_waits_while_redis_hangs(store, cache):
    """A known key is answered at once, also by who looks whether Redis is back."""
    store.values["a"] = "A"
    await cache.get("a")
    store.failure = Unavailable("away")
    store.now += 100
    await cache.get("a")
    store.now += RETRY_SECONDS
    store.gate = asyncio.Event()

    async with asyncio.timeout(30):
        assert await cache.get("a") == "A"
    store.gate.set()


async def test_rest_after_failure(store, cache):
    """While Redis hangs, a known key costs a look-up every quarter second only."""
    store.values["a"] = "A"
    await cache.get("a")
    store.failure = Unavailable("away")
    store.now += 10
    store.asked.clear()
    for _ in range(100):
        assert await cache.get("a") == "A"
        await settle()
        store.now += RETRY_SECONDS / 50

    assert len(store.asked) == 2


async def test_ahead_while_away(store, cache):
    """A failed look-up ahead of time is nobody's error."""
    store.values["a"] = "A"
    await cache.get("a")
    store.failure = Unavailable("away")
    store.now += AHEAD_SECONDS
    assert await cache.get("a") == "A"
    await settle()

    assert await cache.get("a") == "A"


@pytest.mark.parametrize(
    "failure", [ProtocolError("key can't be read"), Undecided("a provider is away")]
)
async def test_no_outage(store, cache, failure):
    """A record that can't be read, a provider that is away: nothing lives on by it."""
    store.values["a"] = "A"
    await cache.get("a")
    store.failure = failure
    store.now += FRESH_SECONDS

    for digest in ("a", "b"):
        with pytest.raises(Unavailable):
            await cache.get(digest)


async def test_an_outage_has_one_end(store, cache):
    """Who is refused without a question to Redis says nothing about it."""
    store.values["a"] = "A"
    await cache.get("a")
    store.now += FRESH_SECONDS
    with capture_logs() as logged:
        for number in range(5):
            store.failure = Unavailable("away")
            assert await cache.get("a") == "A"
            await settle()
            store.failure = Unasked()
            assert await cache.get(f"bad-{number}") is None
            store.now += RETRY_SECONDS
        # As long as that is all that is known, nobody waits for a Redis that hangs.
        store.gate = asyncio.Event()
        async with asyncio.timeout(30):
            assert await cache.get("a") == "A"
        store.gate.set()
        await settle()
        store.failure = None
        store.now += FRESH_SECONDS
        await cache.get("c")

    assert [it["event"] for it in logged] == ["redis.lost", "redis.returned"]


async def test_losses_in_quick_succession(store, cache):
    """Whoever has look-ups come late now and then does not write the log."""

    async def flap() -> None:
        for failure in (Unavailable("late"), None):
            store.failure = failure
            with contextlib.suppress(Unavailable):
                await cache.get(f"bad-{store.now}")
            store.now += 1

    with capture_logs() as logged:
        for _ in range(4):
            await flap()
        store.now += TELL_SECONDS
        await flap()

    assert [it["event"] for it in logged] == ["redis.lost", "redis.returned"] * 2


async def test_bug(store, cache):
    """An error we did not foresee reaches who asked."""
    store.failure = KeyError("bug")
    with pytest.raises(KeyError):
        await cache.get("a")


async def test_told_of_a_change(store, cache):
    """What changed is looked up again before it passes once more."""
    store.values |= {"a": "A", "b": "B"}
    await cache.get("a")
    await cache.get("b")
    del store.values["a"]
    store.now += 0.1
    cache.cache.changed("key a")
    store.now += 0.1

    assert await cache.get("a") is None
    assert await cache.get("b") == "B"
    assert [digest for digest, _ in store.asked] == ["a", "b", "a"]


async def test_told_of_a_new_one(store, cache):
    """A key refused a moment ago passes once it is made."""
    assert await cache.get("a") is None
    store.values["a"] = "A"
    store.now += 0.1
    cache.cache.changed("key a")

    assert await cache.get("a") == "A"


async def test_told_of_a_tenant(store, cache):
    """A tenant's change is one of all its keys."""
    store.values |= {"a": "A", "b": "B"}
    await cache.get("a")
    await cache.get("b")
    store.values.clear()
    cache.cache.changed("tenant acme")

    assert [await cache.get(it) for it in "ab"] == [None, None]


async def test_looked_up_once_after_a_change(store, cache):
    """A change costs one look-up, not one per request from then on."""
    store.values["a"] = "A"
    await cache.get("a")
    cache.cache.changed("key a")
    store.now += 0.1
    for _ in range(5):
        await cache.get("a")

    assert len(store.asked) == 2


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("is_known", [True, False])
async def test_change_during_a_look_up(store, cache, is_known, is_told):
    """What was asked before the change passes nobody after it, nor who joined."""
    if is_known:
        store.values["a"] = "A"
        await cache.get("a")
        store.now += FRESH_SECONDS
    store.values["a"] = "A"
    store.gate = asyncio.Event()
    store.answered = asyncio.Event()
    early = asyncio.create_task(cache.get("a"))
    await store.answered.wait()
    store.now += 0.01
    del store.values["a"]
    cache.cache.changed("key a") if is_told else cache.cache.missed()
    late = asyncio.create_task(cache.get("a"))
    await settle()
    store.now += 0.01
    store.gate.set()

    assert [await early, await late] == [None, None]
    assert len(store.asked) == 2 + is_known


async def test_change_after_change(store, cache):
    """Changes without end cost a request two look-ups and no more."""
    store.values["a"] = "A"
    await cache.get("a")
    cache.cache.changed("key a")

    assert await cache.get("a") == "A"  # at the very moment, as far as the clock tells
    assert len(store.asked) == 3


async def test_lost_between_two_look_ups(store, cache):
    """One that was found gone does not live on by the outage right after."""
    store.values["a"] = "A"
    await cache.get("a")
    store.now += FRESH_SECONDS
    store.gate = asyncio.Event()
    store.answered = asyncio.Event()
    del store.values["a"]
    early = asyncio.create_task(cache.get("a"))
    await store.answered.wait()
    store.now += 0.01
    cache.cache.missed()
    store.failure = Unavailable("away")
    store.gate.set()

    with pytest.raises(Unavailable):
        await early


async def test_changed_and_redis_away(store, cache):
    """Known to have changed, not known how: nothing is concluded, nobody passes."""
    store.values |= {"a": "A", "b": "B"}
    await cache.get("a")
    await cache.get("b")
    store.now += 0.1
    cache.cache.changed("key a")
    store.failure = Unavailable("away")

    with pytest.raises(Unavailable):
        await cache.get("a")
    assert await cache.get("b") == "B"


async def test_missed_messages(store, cache):
    """After a time without messages everything is looked up, and outlives an outage."""
    store.values["a"] = "A"
    await cache.get("a")
    store.now += 0.1
    cache.cache.missed()
    store.failure = Unavailable("away")
    assert await cache.get("a") == "A"
    store.failure = None
    del store.values["a"]
    store.now += RETRY_SECONDS

    await cache.get("a")
    await settle()
    assert await cache.get("a") is None


async def test_missed_messages_end_an_outage(store, cache):
    """What was revoked unheard before listening began again never passes once more."""
    store.values["a"] = "A"
    await cache.get("a")
    store.failure = Unavailable("away")
    store.now += FRESH_SECONDS
    assert await cache.get("a") == "A"
    store.failure = None
    del store.values["a"]
    store.now += 10
    cache.cache.missed()
    store.now += 100

    assert await cache.get("a") is None


async def test_changes_are_bounded(store, cache, monkeypatch):
    """Of too many changes the oldest is forgotten by looking everything up again."""
    monkeypatch.setattr("tollhouse.authz.cache.MOST_CHANGES", 2)
    store.values["a"] = "A"
    await cache.get("a")
    del store.values["a"]
    store.now += 0.1
    for name in "axyz":
        cache.cache.changed(f"key {name}")

    assert len(cache.cache._changes) == 2
    assert await cache.get("a") is None


async def test_forgotten_changes_open_no_door(store, cache, monkeypatch):
    """What may have been told of and was forgotten does not live on without Redis."""
    monkeypatch.setattr("tollhouse.authz.cache.MOST_CHANGES", 2)
    store.values["a"] = "A"
    await cache.get("a")
    store.now += 0.1
    for name in "axyz":
        cache.cache.changed(f"key {name}")
    store.failure = Unavailable("away")

    with pytest.raises(Unavailable):
        await cache.get("a")
