"""The client on a real Redis Cluster of three masters."""

import asyncio
import contextlib
import signal
import time

import pytest

from tests.redis_process import running_cluster, running_redis, secret_file
from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.client import Redis, RedisReplyError, Script, run_all
from tollhouse.adapters.redis.cluster import key_of, slot_of
from tollhouse.core.problems import Unavailable

TAGS = [f"{{s{number}}}" for number in range(shards.SHARDS)]
TAGS += ["{m0}", *(f"{{b{number}}}" for number in range(16))]

COUNT = Script("return redis.call('INCR', KEYS[1])")
COUNT_BOTH = Script("redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])")


@pytest.fixture(scope="module")
def shared():
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared):
    """One that nothing is done to, emptied."""
    for node in shared.nodes:
        node.ask("FLUSHALL")
    return shared


@contextlib.asynccontextmanager
async def connected(url, budget_seconds=1.0):
    client = await Redis.connect(url, budget_seconds=budget_seconds)
    try:
        await until(lambda: client.connected)
        yield client
    finally:
        await client.close()


@pytest.fixture
async def client(cluster):
    async with connected(cluster.url) as client:
        yield client


async def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def errors(node, code):
    """How often a node answered so."""
    text = node.ask("INFO", "errorstats").decode()
    found = text.partition(f"errorstat_{code}:count=")[2]
    return int(found.split()[0]) if found else 0


@pytest.mark.parametrize(
    "key",
    ["{s1}:x", "x{y}z", "{}x", "x{}{y}", "{x", "x}{y}", "{{x}}", "ключ", b"\xff{\xfe}"],
)
async def test_slots_are_redis_slots(cluster, key):
    assert cluster.masters[0].ask("CLUSTER", "KEYSLOT", key) == slot_of(key)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k"), "k"),
        (("EVALSHA", "sha", 2, "k", "l", "argument"), "k"),
        (("EVALSHA", "sha", 0, "argument"), None),
        (("EVAL", "return 1", "1", "k"), "k"),
        (("XREADGROUP", "GROUP", "g", "c", "COUNT", 9, "STREAMS", "k", ">"), "k"),
        (("XREAD", "STREAMS", "k", 0), "k"),
        (("XGROUP", "CREATE", "k", "g", 0), "k"),
        (("TIME",), None),
    ],
)
def test_commands_go_by_their_key(command, key):
    assert key == key_of(command)


async def test_every_tag_is_reached(cluster, client):
    """Alone and in one call, whose replies come in the order of its commands."""
    for number, tag in enumerate(TAGS):
        assert b"OK" == await client.call("SET", f"{tag}:one", number)
    commands = [("INCRBY", f"{tag}:other", n) for n, tag in enumerate(TAGS)]
    assert list(range(len(TAGS))) == await client.call_many(commands)
    ends = [("GET", f"{TAGS[at]}:one") for at in (0, -1)]
    assert [b"0", b"80"] == await client.call_many(ends)

    sizes = [node.ask("DBSIZE") for node in cluster.masters]
    assert 2 * len(TAGS) == sum(sizes)
    assert min(sizes) > 0
    assert [0, 0, 0] == [errors(node, "MOVED") for node in cluster.masters]


async def test_commands_of_one_node_keep_their_order(client):
    """A later command of a call sees what an earlier one of its slot did."""
    commands = [
        (verb, f"{tag}:list", *value)
        for verb, *value in (("RPUSH", 1), ("RPUSH", 2), ("LPOP",), ("LPOP",))
        for tag in TAGS
    ]
    replies = await client.call_many(commands)

    assert [b"1", b"2"] == [replies[2 * len(TAGS)], replies[3 * len(TAGS)]]
    assert 1 == len(set(replies[: len(TAGS)]))


async def test_keyless_commands(cluster, client):
    """The time is any node's; a script is loaded on all, so that any may run it."""
    seconds, _ = await client.call("TIME")
    assert abs(int(seconds) - time.time()) < 60
    sha = await client.call("SCRIPT", "LOAD", COUNT.source)

    assert COUNT.sha.encode() == sha
    assert [[1]] * 3 == [
        node.ask("SCRIPT", "EXISTS", COUNT.sha) for node in cluster.masters
    ]


async def test_keys_of_two_slots_are_our_fault(client):
    with pytest.raises(RedisReplyError, match="CROSSSLOT"):
        await client.call("MGET", "{s1}:x", "{s2}:x")
    with pytest.raises(RedisReplyError, match="CROSSSLOT"):
        await COUNT_BOTH(client, ["{s1}:x", "{s2}:x"], ())


async def test_scripts_run_where_their_keys_are(cluster, client):
    """Also on a node that has forgotten them: one trip more, and each ran once."""
    runs = [(COUNT, [f"{tag}:n"], ()) for tag in TAGS]
    assert [1] * len(TAGS) == await run_all(client, runs, budget_seconds=1)
    cluster.masters[1].ask("SCRIPT", "FLUSH")

    for tag in TAGS:
        assert 2 == await COUNT(client, [f"{tag}:n"], ())


async def test_a_configuration_endpoint_is_one_name(cluster, free_port):
    """Any node tells of all; names are resolved, and dead seeds passed over."""
    live, dead = cluster.masters[1].port, free_port()
    for places in (f"localhost:{live}", f"127.0.0.1:{dead},127.0.0.1:{live}/0"):
        async with connected(f"redis+cluster://{places}") as client:
            assert [None] * len(TAGS) == await client.call_many(
                [("GET", tag) for tag in TAGS]
            )


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("", "starts with"),
        ("//", "host"),
        ("//,", "host"),
        ("//h:x", "Port"),
        ("//:secret@h:1", "password"),
        ("//h:1,:secret@i:2", "password"),
        ("//h:1/2", "database"),
    ],
)
async def test_unusable_urls(rest, reason):
    with pytest.raises(ValueError, match=reason):
        await Redis.connect(f"redis+cluster:{rest}")


async def test_a_server_that_is_no_cluster(free_port):
    """Its answer is in the reason, for the operator to read."""
    with running_redis(port=free_port()) as server:
        client = await Redis.connect(f"redis+cluster://127.0.0.1:{server.port}")
        with pytest.raises(Unavailable, match="cluster support disabled"):
            await client.call("GET", "key")
        with pytest.raises(Unavailable, match="cluster support disabled"):
            await client.call_many([("TIME",)])
        assert not client.connected
        await client.close()


async def test_credentials_are_for_every_node(cluster, tmp_path):
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", "extproc", "on", ">secret", "~*", "+@all")
    password = secret_file(tmp_path, "secret")
    client = await Redis.connect(RedisAccess(cluster.url, "extproc", password))

    for tag in TAGS:
        assert b"extproc" == await client.call("ACL", "WHOAMI") or tag
    await client.close()


@pytest.mark.timed
async def test_a_master_that_stalls_costs_its_own_slots(cluster, client):
    """The budget of whoever needs it; nothing of the others."""
    stalled = cluster.master_of(slot_of("{s17}"))
    others = [tag for tag in TAGS if cluster.master_of(slot_of(tag)) is not stalled]
    stalled.process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="too long"):
            await client.call_many(
                [("INCR", f"{t}:n") for t in TAGS], budget_seconds=0.1
            )
        assert 0.1 <= time.monotonic() - started < 0.4
        again = [("INCR", f"{tag}:n") for tag in others]
        assert [2] * len(others) == await client.call_many(again)
        assert client.connected
    finally:
        stalled.process.send_signal(signal.SIGCONT)
    assert len(TAGS) - len(others) == sum(
        it == b"1" for it in await client.call_many([("GET", f"{t}:n") for t in TAGS])
    )


async def test_slots_that_nobody_serves(cluster, client):
    """CLUSTERDOWN, then a map with a hole: Unavailable, and only there."""
    node, slot = cluster.master_of(slot_of("{s17}")), slot_of("{s17}")
    for it in cluster.nodes:
        it.ask("CLUSTER", "DELSLOTS", slot)
    with pytest.raises(Unavailable) as caught:
        await client.call("GET", "{s17}:x")
    assert caught.value.transient
    await until(lambda: not client.connected)
    with pytest.raises(Unavailable, match="no node serves"):
        await client.call("GET", "{s17}:x")
    assert await client.call("GET", "{s18}:x") is None
    node.ask("CLUSTER", "ADDSLOTS", slot)
    await until(lambda: client.connected)

    assert await client.call("GET", "{s17}:x") is None


async def test_closing_ends_calls(cluster):
    client = await Redis.connect(cluster.url, budget_seconds=5.0)
    await until(lambda: client.connected)
    cluster.master_of(slot_of("k")).ask("CLIENT", "PAUSE", 100, "ALL")
    call = asyncio.create_task(client.call("GET", "k"))
    await asyncio.sleep(0.01)
    await client.close()

    with pytest.raises(Unavailable, match="lost"):
        await call
    with pytest.raises(Unavailable, match="away"):
        await client.call("GET", "k")


class Move:
    """One slot on its way to another node, as `redis-cli --cluster reshard` goes."""

    def __init__(self, cluster, slot, target):
        self._cluster, self._slot, self._target = cluster, slot, target
        self.source = cluster.master_of(slot)

    def begin(self):
        source, target = (it.ask("CLUSTER", "MYID").decode() for it in self._ends())
        self._target.ask("CLUSTER", "SETSLOT", self._slot, "IMPORTING", source)
        self.source.ask("CLUSTER", "SETSLOT", self._slot, "MIGRATING", target)

    def carry(self, most):
        """Move up to so many keys; return how many there were."""
        keys = self.source.ask("CLUSTER", "GETKEYSINSLOT", self._slot, most)
        if keys:
            place = ("127.0.0.1", self._target.port)
            self.source.ask("MIGRATE", *place, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end(self):
        target = self._target.ask("CLUSTER", "MYID").decode()
        for node in (self._target, self.source, *self._cluster.masters):
            node.ask("CLUSTER", "SETSLOT", self._slot, "NODE", target)

    def _ends(self):
        return self.source, self._target


async def test_a_slot_that_moves():
    """No call of one key fails while it does, to a node the map does not know yet.

    Each command runs once, whichever of the two nodes it is that runs it. Those of
    several keys are refused (TRYAGAIN) while some are here and some there.
    """
    slot, keys = slot_of("{s17}"), [f"{{s17}}:{number}" for number in range(100)]
    with running_cluster(spares=1) as cluster:
        move = Move(cluster, slot, cluster.spares[0])
        cluster.spares[0].ask("SCRIPT", "LOAD", COUNT.source)
        async with connected(cluster.url) as client:
            count = [("INCR", key) for key in keys]
            rest = [("INCR", f"{tag}:n") for tag in TAGS]
            whole = [*count, *rest]
            expected = 0

            async def all_count():
                nonlocal expected
                expected += 1
                assert [expected] * len(whole) == await client.call_many(whole)
                expected += 1
                for command in (count[0], count[99], *rest):
                    assert expected == await client.call(*command)
                assert [expected] * 98 == await client.call_many(count[1:99])
                expected += 1
                runs = [(COUNT, (key,), ()) for _, key in whole]
                assert [expected] * len(runs) == await run_all(
                    client, runs, budget_seconds=1
                )

            await all_count()
            move.begin()
            await all_count()
            assert 50 == move.carry(50)
            await all_count()
            assert errors(move.source, "ASK") > 0
            unknown_there = Script("return redis.call('STRLEN', KEYS[1])")
            for key in keys:
                assert 1 <= await unknown_there(client, [key], ())
            with pytest.raises(Unavailable, match="TRYAGAIN") as caught:
                await COUNT_BOTH(client, ["{s17}:0", "{s17}:new"], ())
            assert caught.value.transient
            while move.carry(50):
                await all_count()
            await all_count()
            assert 0 == errors(move.source, "MOVED")
            move.end()
            await all_count()
            assert errors(move.source, "MOVED") > 0
            assert 1 == await client.call("SETNX", "{s17}:new", 0)
            assert expected + 1 == await COUNT_BOTH(client, ["{s17}:new", keys[0]], ())
            await until(lambda: client.connected)
            seen = errors(move.source, "MOVED")
            await client.call_many(count)
            assert seen == errors(move.source, "MOVED"), "the map is the new one"


async def test_a_failover():
    """A dead master's slots wait for its replica, the others do not.

    The new master has never seen a script of ours, and the dead one was the only seed.
    """
    with running_cluster(replicas=1) as cluster:
        old, new = cluster.masters[0], cluster.replicas[0]
        url = f"redis+cluster://127.0.0.1:{old.port}"
        async with connected(url, budget_seconds=0.25) as client:
            lost = [tag for tag in TAGS if cluster.master_of(slot_of(tag)) is old]
            kept = [tag for tag in TAGS if tag not in lost]
            assert min(len(lost), len(kept)) > 0
            runs = [(COUNT, [f"{tag}:n"], ()) for tag in TAGS]
            await run_all(client, runs, budget_seconds=1)
            old.ask("WAIT", 1, 1000)
            await asyncio.sleep(0.2)  # the map is read again right after the start

            old.process.kill()
            await until(lambda: not client.connected)
            for tag in lost:
                with pytest.raises(Unavailable, match=r"away|lost") as caught:
                    await COUNT(client, [f"{tag}:n"], ())
                assert caught.value.transient
            for tag in kept:
                assert 2 == await COUNT(client, [f"{tag}:n"], ())
            with pytest.raises(Unavailable):
                await run_all(client, runs, budget_seconds=1)
            new.ask("SCRIPT", "FLUSH")
            new.ask("CLUSTER", "FAILOVER", "TAKEOVER")
            await until(lambda: client.connected)

            for tag in lost:
                assert 2 == await COUNT(client, [f"{tag}:n"], ())
            for tag in kept:
                assert 4 == await COUNT(client, [f"{tag}:n"], ())
