"""What a Redis says of itself is read to the word; what is missing is no trouble."""

import pytest

from tests.measured import Measured
from tollhouse.adapters.redis.vitals import Trouble, Vitals
from tollhouse.adapters.redis_metrics import watch_redis

INFO = b"""# Memory\r
used_memory:1048576\r
maxmemory:4194304\r
maxmemory_policy:noeviction\r
# Persistence\r
rdb_last_bgsave_status:ok\r
aof_last_bgrewrite_status:ok\r
aof_last_write_status:ok\r
# Stats\r
rejected_connections:3\r
evicted_keys:2\r
# Replication\r
role:master\r
slave0:ip=10.0.0.2,port=6379,state=online,offset=8,lag=0\r
slave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0\r
"""


def test_what_is_well():
    assert Vitals("r:6379", 1 << 20, 4 << 20, 2, 3, 1, frozenset()) == (
        Vitals.parse("r:6379", INFO)
    )


def test_a_server_that_says_nothing():
    assert Vitals("r", 0, 0, 0, 0, 0, frozenset()) == Vitals.parse("r", b"")


@pytest.mark.parametrize(
    ("old", "new", "trouble"),
    [
        (b"aof_last_write_status:ok", b"aof_last_write_status:err", Trouble.APPEND),
        (b"bgrewrite_status:ok", b"bgrewrite_status:err", Trouble.REWRITE),
        (b"bgsave_status:ok", b"bgsave_status:err", Trouble.SNAPSHOT),
        (b"policy:noeviction", b"policy:allkeys-lru", Trouble.EVICTION),
    ],
)
def test_each_trouble(old, new, trouble):
    assert old in INFO
    assert frozenset({trouble}) == Vitals.parse("r", INFO.replace(old, new)).troubles


def test_without_a_bound_nothing_is_evicted():
    info = INFO.replace(b"noeviction", b"allkeys-lru").replace(b":4194304", b":0")

    assert frozenset() == Vitals.parse("r", info).troubles


def test_all_of_it_is_exported_by_server():
    measured = Measured()
    broken = INFO.replace(b"aof_last_write_status:ok", b"aof_last_write_status:err")
    seen = [Vitals.parse("r:6379", INFO), Vitals.parse("s:6379", broken)]
    watch_redis(measured.provider, lambda: seen)
    points = measured.points()
    of = [{"server": "r:6379"}, {"server": "s:6379"}]

    assert {
        f"tollhouse.redis.{name}": [(it, value) for it in of]
        for name, value in {
            "memory.used": 1 << 20,
            "memory.limit": 4 << 20,
            "evicted": 2,
            "rejected": 3,
            "replicas": 1,
        }.items()
    } == {name: it for name, it in points.items() if "trouble" not in name}
    troubles = points["tollhouse.redis.trouble"]
    assert 2 * len(Trouble) == len(troubles)
    assert [{"server": "s:6379", "trouble": "append"}] == [
        attributes for attributes, value in troubles if value
    ]


def test_of_a_server_that_is_away_nothing_is_said():
    measured = Measured()
    watch_redis(measured.provider, tuple)

    assert {} == measured.points()
