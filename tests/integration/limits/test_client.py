"""The Redis client against a real Redis: replies, budgets, connections."""

import asyncio
import signal
import socket
import subprocess
import time

import pytest
import uvloop

from tests.redis_process import find_binary, running_redis, secret_file
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.client import (
    UNREACHED,
    Redis,
    RedisReplyError,
    Script,
    run_all,
)
from tollhouse.adapters.redis.connection import (
    MOST_WAITING,
    STALLED_SECONDS,
    failure,
)
from tollhouse.core.problems import Unavailable

COUNT = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.fixture
def server():
    """One that may be killed."""
    with running_redis() as server:
        yield server


@pytest.fixture
async def client(server):
    client = await Redis.connect(server.url, budget_seconds=0.25)
    yield client
    await client.close()


async def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_replies_are_redis_values(client):
    """Bytes, numbers, None and lists; text and numbers go in as they are."""
    assert b"OK" == await client.call("SET", "key", 12)
    assert 13 == await client.call("INCR", b"key")
    assert None is await client.call("GET", "nothing")
    assert [b"13", None] == await client.call("MGET", "key", "nothing")


async def test_large_replies_arrive_whole(client):
    """A reply may take many reads, and the next one starts right behind it."""
    value = bytes(range(256)) * 20_000
    await client.call("SET", "large", value)

    one, number, other = await asyncio.gather(
        client.call("GET", "large"),
        client.call("INCR", "counter"),
        client.call("GET", "large"),
    )

    assert (value, 1, value) == (one, number, other)


async def test_concurrent_calls_get_their_own_replies(client):
    """Calls of one turn share a write; each has its reply."""
    replies = await asyncio.gather(*(client.call("ECHO", n) for n in range(2000)))

    assert [b"%d" % n for n in range(2000)] == replies


async def test_batches_keep_their_errors(client):
    """An error is one of the results, and the others count."""
    await client.call("SET", "text", "abc")

    first, second, third = await client.call_many(
        [("PING",), ("INCR", "text"), ("ECHO", "x")]
    )

    assert (b"PONG", b"x") == (first, third)
    assert isinstance(second, RedisReplyError)
    assert "ERR" == second.code
    assert [] == await client.call_many([])


async def test_wrong_commands_are_our_fault(client):
    """What no waiting would cure is not Unavailable."""
    with pytest.raises(RedisReplyError, match="unknown command"):
        await client.call("NONSENSE")


@pytest.mark.timed
async def test_connecting_waits_for_nobody(tmp_path_factory):
    """A gateway starts while Redis is away, and finds it when it comes."""
    folder = tmp_path_factory.mktemp("r")
    started = time.monotonic()
    client = await Redis.connect(f"unix://{folder}/redis.sock")

    assert time.monotonic() - started < 0.5
    before = client.connected_since
    assert None is before
    with pytest.raises(Unavailable) as caught:
        await client.call("PING")
    assert caught.value.transient
    with running_redis(folder):
        await until(lambda: client.connected)
        assert b"PONG" == await client.call("PING")
        assert client.connected_since is not None
        assert client.connected_since <= time.monotonic()
        await client.close()


@pytest.mark.timed
async def test_a_killed_redis_ends_every_call_and_is_found_again(tmp_path_factory):
    """In flight: Unavailable, at once. Afterwards: the same client works again."""
    folder = tmp_path_factory.mktemp("r")
    with running_redis(folder) as server:
        client = await Redis.connect(server.url, budget_seconds=30.0)
        server.process.send_signal(signal.SIGSTOP)
        calls = [asyncio.create_task(client.call("PING")) for _ in range(50)]
        calls.append(asyncio.create_task(client.call_many([("PING",)] * 3)))
        await asyncio.sleep(0.02)
        server.process.kill()
        ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 1)

        assert [Unavailable] * 51 == [type(end) for end in ends]
        await until(lambda: not client.connected)
    with running_redis(folder):
        await until(lambda: client.connected)

        assert b"PONG" == await client.call("PING")
        await client.close()


@pytest.mark.timed
async def test_a_stalled_redis_costs_the_budget_and_mixes_nothing_up(server):
    """Late replies belong to those who gave up: the next call gets its own."""
    client = await Redis.connect(server.url, budget_seconds=0.1)
    server.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    ends = await asyncio.gather(
        *(client.call("ECHO", f"old {n}") for n in range(20)),
        client.call_many([("ECHO", "old batch"), ("INCR", "late")]),
        return_exceptions=True,
    )
    took = time.monotonic() - started
    server.process.send_signal(signal.SIGCONT)
    replies = await asyncio.gather(*(client.call("ECHO", n) for n in range(20)))

    assert [Unavailable] * 21 == [type(end) for end in ends]
    assert 0.1 <= took < 0.3
    assert [b"%d" % n for n in range(20)] == replies
    assert b"1" == await client.call("GET", "late"), "what timed out was applied"
    await client.close()


@pytest.mark.timed
async def test_a_call_that_is_cancelled_keeps_its_place(client, server):
    """The reply of a caller who left is nobody else's."""
    server.process.send_signal(signal.SIGSTOP)
    gone = asyncio.create_task(client.call("ECHO", "gone"))
    await asyncio.sleep(0.01)
    gone.cancel()
    staying = asyncio.create_task(client.call("ECHO", "staying"))
    await asyncio.sleep(0.01)
    server.process.send_signal(signal.SIGCONT)

    assert b"staying" == await staying
    assert gone.cancelled()


@pytest.mark.timed
async def test_a_redis_that_stays_silent_is_left(client, server):
    """A peer that is gone without a word would else hold us for ever."""
    since = client.connected_since
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(Unavailable):
        await client.call("PING")
    await until(lambda: not client.connected, STALLED_SECONDS + 1)
    server.process.send_signal(signal.SIGCONT)
    await until(lambda: client.connected)

    assert b"PONG" == await client.call("PING")
    assert since != client.connected_since


async def test_waiting_calls_are_bounded(client, server):
    """A stalled Redis must not cost memory without end."""
    server.process.send_signal(signal.SIGSTOP)
    calls = [asyncio.create_task(client.call("PING")) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0)

    with pytest.raises(Unavailable, match="behind"):
        await client.call("PING")
    server.process.send_signal(signal.SIGCONT)
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.timed
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_our_own_lag_is_not_redis_being_slow(run, server):
    """A loop that was busy reads what has arrived before it gives up on it."""

    async def scenario():
        client = await Redis.connect(server.url, budget_seconds=0.05)
        bell, clapper = socket.socketpair()

        def lag():
            """In the loop's reading, which under uvloop timers come right after."""
            bell.recv(1)
            server.process.send_signal(signal.SIGCONT)
            time.sleep(0.15)

        with bell, clapper:
            asyncio.get_running_loop().add_reader(bell, lag)
            server.process.send_signal(signal.SIGSTOP)
            call = asyncio.create_task(client.call("ECHO", "x"))
            await asyncio.sleep(0.005)
            clapper.send(b"x")
            assert b"x" == await call
            asyncio.get_running_loop().remove_reader(bell)
        await client.close()

    run(scenario())


@pytest.mark.timed
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_what_our_own_lag_cost_is_told(run, server):
    """The breaker counts what Redis left unanswered, not what we were too busy for."""

    async def scenario():
        client = await Redis.connect(server.url, budget_seconds=0.05)
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(Unavailable, match="too long") as caught:
            await client.call("PING")
        assert not caught.value.ours

        before_it_was_sent = asyncio.create_task(client.call("PING"))
        asyncio.get_running_loop().call_soon(time.sleep, 0.1)
        with pytest.raises(Unavailable, match="too long") as caught:
            await before_it_was_sent
        assert caught.value.ours

        while_it_was_due = asyncio.create_task(client.call("PING"))
        await asyncio.sleep(0.02)
        time.sleep(0.1)  # noqa: ASYNC251 - a loop that lags
        with pytest.raises(Unavailable, match="too long") as caught:
            await while_it_was_due
        assert caught.value.ours
        await client.close()
        server.process.send_signal(signal.SIGCONT)

        patient = await Redis.connect(server.url, budget_seconds=0.5)
        server.process.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.49, time.sleep, 0.03)
        with pytest.raises(Unavailable, match="too long") as caught:
            await patient.call("PING")
        assert not caught.value.ours, "Redis had most of the time"
        server.process.send_signal(signal.SIGCONT)
        await patient.close()

    run(scenario())


@pytest.mark.timed
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_every_call_is_watched(run, server):
    """Also those made while an earlier one is due."""

    async def scenario():
        client = await Redis.connect(server.url, budget_seconds=0.03)
        server.process.send_signal(signal.SIGSTOP)
        for _ in range(10):
            started = time.monotonic()
            with pytest.raises(Unavailable):
                await client.call("PING")
            assert time.monotonic() - started < 0.2
        server.process.send_signal(signal.SIGCONT)
        await client.close()

    run(scenario())


async def test_what_is_not_redis_is_left(tmp_path_factory):
    """A reply nobody can read, or nobody waits for, means the pairing is lost."""
    path = tmp_path_factory.mktemp("r") / "socket"
    answers = [b"+PONG\r\n", b"!nonsense\r\n"]

    async def talk(reader, writer):
        for answer in answers:
            await reader.read(1000)
            writer.write(answer)
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(talk, path):
        client = await Redis.connect(f"unix://{path}", budget_seconds=2.0)
        with pytest.raises(Unavailable, match="lost"):
            await client.call("GET", "key")
        await client.close()
        answers[1] = b":1\r\n:2\r\n"
        client = await Redis.connect(f"unix://{path}", budget_seconds=2.0)
        assert 1 == await client.call("INCR", "key")
        with pytest.raises(Unavailable):
            await client.call_many([("GET", "key")])
        await client.close()


async def test_closing_ends_calls(server):
    client = await Redis.connect(server.url, budget_seconds=30.0)
    server.process.send_signal(signal.SIGSTOP)
    call = asyncio.create_task(client.call("PING"))
    await asyncio.sleep(0.01)
    await client.close()

    with pytest.raises(Unavailable):
        await call
    with pytest.raises(Unavailable):
        await client.call("PING")


@pytest.mark.parametrize(
    ("text", "transient"),
    [
        ("LOADING Redis is loading the dataset in memory", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("NOSCRIPT No matching script", True),
        ("MISCONF Redis is configured to save RDB snapshots", True),
        ("NOPERM this user has no permissions", False),
        ("ERR Error running script (call to f_1): @user_script:3: -OOM command", True),
    ],
)
def test_errors_of_a_redis_that_can_not_serve(text, transient):
    """Waiting helps against some; an operator against the others."""
    error = failure(RedisReplyError(text))

    assert isinstance(error, Unavailable)
    assert transient is error.transient


@pytest.mark.parametrize("text", ["CROSSSLOT Keys in request", "WRONGTYPE", "ERR x"])
def test_errors_of_a_command(text):
    error = RedisReplyError(text)

    assert error is failure(error)


async def test_credentials_come_apart_from_the_url(server, client, tmp_path):
    """Passwords are files' business; a URL ends up in logs."""
    await client.call("ACL", "SETUSER", "extproc", "on", ">secret", "~*", "+@all")
    await client.call("CONFIG", "SET", "requirepass", "other")
    stranger = await Redis.connect(server.url)
    secret, other = secret_file(tmp_path, "secret"), secret_file(tmp_path, "other", "o")
    known = await Redis.connect(RedisAccess(server.url, "extproc", secret))
    default = await Redis.connect(RedisAccess(server.url, password_file=other))

    assert b"extproc" == await known.call("ACL", "WHOAMI")
    assert b"default" == await default.call("ACL", "WHOAMI")
    assert not stranger.connected
    for one in (stranger, known, default):
        await one.close()


@pytest.mark.parametrize(
    "url",
    [
        *("http://localhost", "redis://localhost:x"),
        *("redis://:secret@localhost", "redis://secret@localhost"),
    ],
)
async def test_urls_that_can_not_be_meant(url):
    with pytest.raises(ValueError, match=r"^(?!.*secret)"):
        await Redis.connect(url)


@pytest.fixture
def tcp_port(free_port):
    """Where a redis-server listens on TCP."""
    port = str(free_port())
    command = [find_binary("redis-server"), "--port", port, "--save", ""]
    command += ["--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        yield port
        process.kill()


async def test_tcp_and_database_number(tcp_port):
    client = await Redis.connect(f"redis://127.0.0.1:{tcp_port}/2", budget_seconds=1)
    await until(lambda: client.connected)
    await client.call("SET", "key", 1)

    assert b"db=2" in (await client.call("CLIENT", "INFO"))
    await client.close()


async def test_scripts_are_loaded_when_redis_forgot_them(client):
    """After a restart Redis knows no script; the same call is made again, once."""
    keys = ("counter",)

    assert 1 == await COUNT(client, keys, (1,))
    await client.call("SCRIPT", "FLUSH")
    assert 2 == await COUNT(client, keys, (1,))
    await client.call("SCRIPT", "FLUSH")
    runs = [(COUNT, keys, (1,))] * 3
    assert [3, 4, 5] == await run_all(client, runs, budget_seconds=1)


async def test_a_script_that_fails_is_our_fault(client):
    with pytest.raises(RedisReplyError):
        await COUNT(client, ["counter"], ["x"])
    with pytest.raises(RedisReplyError):
        await run_all(client, [(COUNT, ("counter",), ("x",))], budget_seconds=1)


async def test_every_run_of_a_script_is_told(server):
    """Of a round trip's runs the first, and the first that failed in each way."""
    told, of_one = [], []

    def observe(run, started_ns, ended_ns, error):
        assert 0 < started_ns <= ended_ns
        told.append((run[0].name, run[1], error))

    def observe_one(run, _started_ns, _ended_ns, error):
        of_one.append((run[0].name, error))

    count = Script("return redis.call('INCR', KEYS[1])", "count")
    check = Script("return KEYS[1] == 'b' and {err = 'FULL b'} or 1", "check")
    client = await Redis.connect(server.url, budget_seconds=0.25, observe=observe)
    await count(client, ["a"], [], observe=observe_one)
    runs = [
        (count, ["b"], ()),
        (count, ["c"], ()),
        (check, ["b"], ()),
        (check, ["d"], ()),
    ]
    with pytest.raises(RedisReplyError):
        await run_all(client, [*runs, (check, ["c"], ())], budget_seconds=1)
    await client.close()
    with pytest.raises(Unavailable):
        await count(client, ["a"], [], observe=observe_one)

    assert [
        ("count", ["a"], ""),
        ("count", ["b"], ""),
        ("check", ["b"], "FULL"),
        ("check", ["d"], ""),
        ("count", ["a"], UNREACHED),
    ] == told
    assert [("count", ""), ("count", UNREACHED)] == of_one


def test_a_script_has_the_name_of_its_file():
    """Of the last, which calls the others."""
    assert "reap" == Script.load("clock.lua", "reap.lua").name
