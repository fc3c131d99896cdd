"""Every way Redis fails, under traffic and a budget of 50 ms.

Each call ends within its budget, with a result or Unavailable; what was refused was
not half done; and when the trouble is over, so is ours, without anybody's help.
"""

import asyncio
import contextlib
import signal
import threading
import time

import pytest
import redis as redis_py

from tests.redis_process import running_redis
from tollhouse.adapters.redis.client import Redis, RedisReplyError, Script
from tollhouse.adapters.redis.connection import failure
from tollhouse.core.problems import Unavailable

pytestmark = pytest.mark.timed

BUDGET_SECONDS = 0.05
MARGIN_SECONDS = 0.2
"""For a machine that is busy with other tests."""

COUNT_BOTH = Script(
    "redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])",
)
KEYS = ("{k}:one", "{k}:other")


class Traffic:
    """Calls of a script, one after the other, and how each ended."""

    def __init__(self, client):
        self.client = client
        self.reasons = []
        """Of the calls since the last `forget`; None where it succeeded."""
        self.longest = 0.0
        self.ends_all = False
        """Whether one said that waiting is in vain."""
        self.succeeded = 0

    async def run(self):
        while True:
            started = time.monotonic()
            try:
                await COUNT_BOTH(self.client, KEYS, ())
            except Unavailable as error:
                self.reasons.append(str(error))
                self.ends_all |= not error.transient
            else:
                self.succeeded += 1
                self.reasons.append(None)
            self.longest = max(self.longest, time.monotonic() - started)
            await asyncio.sleep(0.002)

    def forget(self):
        self.reasons.clear()

    async def see(self, reason):
        """Return when a call ended like this after now; None: with a result."""
        self.forget()
        deadline = time.monotonic() + 30
        while not any(
            it == reason or (it and reason and reason in it) for it in self.reasons
        ):
            assert time.monotonic() < deadline, self.reasons[-3:]
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def traffic(url):
    """Traffic until the block ends, which it does only if all went well."""
    client = await Redis.connect(url, budget_seconds=BUDGET_SECONDS)
    calls = Traffic(client)
    running = asyncio.create_task(calls.run())
    await calls.see(None)
    try:
        yield calls
        await calls.see(None)
        assert not running.done()
        assert not calls.ends_all
        assert calls.longest < BUDGET_SECONDS + MARGIN_SECONDS
        one, other = map(int, await client.call("MGET", *KEYS))
        # Some timed out and were applied; none was applied by half.
        assert one == other
        assert calls.succeeded <= one
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()


@pytest.fixture
def server():
    """One that may be tormented."""
    with running_redis() as server:
        yield server


async def test_a_stall(server):
    """SIGSTOP: the machine, or its disk, stands still."""
    async with traffic(server.url) as calls:
        server.process.send_signal(signal.SIGSTOP)
        await calls.see("took too long")
        server.process.send_signal(signal.SIGCONT)


async def test_a_pause(server):
    """CLIENT PAUSE, as operators use it before a planned failover."""
    async with traffic(server.url) as calls:
        server.ask("CLIENT", "PAUSE", 300, "ALL")
        await calls.see("took too long")


async def test_no_memory_left(server):
    """OOM: writes are refused before they begin, and the connection stays."""
    async with traffic(server.url) as calls:
        connected = calls.client.connected_since
        server.ask("CONFIG", "SET", "maxmemory", 1)
        await calls.see("OOM")
        refused = server.ask("MGET", *KEYS)
        await calls.see("OOM")
        assert refused == server.ask("MGET", *KEYS)
        assert connected == calls.client.connected_since
        server.ask("CONFIG", "SET", "maxmemory", 0)


async def test_errors_among_many_are_told_apart(server):
    """The caller of a batch sees which command was refused, and may ask what it is."""
    client = await Redis.connect(server.url, budget_seconds=1)
    server.ask("CONFIG", "SET", "maxmemory", 1)
    read, written = await client.call_many([("GET", "key"), ("SET", "key", 1)])

    assert read is None
    assert isinstance(written, RedisReplyError)
    assert isinstance(failure(written), Unavailable)
    await client.close()


async def test_forgotten_scripts(server):
    """SCRIPT FLUSH: no call fails, each script is loaded once and run again."""
    async with traffic(server.url) as calls:
        for _ in range(3):
            server.ask("SCRIPT", "FLUSH")
            await calls.see(None)
            assert {None} == set(calls.reasons)


async def test_a_script_that_hogs(server):
    """BUSY: someone's script runs and runs, until it is killed."""
    server.ask("CONFIG", "SET", "lua-time-limit", 20)

    def hog():
        with (
            redis_py.Redis.from_url(server.url) as other,
            pytest.raises(redis_py.ResponseError),
        ):
            other.eval("while true do end", 0)

    async with traffic(server.url) as calls:
        thread = threading.Thread(target=hog)
        thread.start()
        try:
            await calls.see("BUSY")
        finally:
            server.ask("SCRIPT", "KILL")
            thread.join()


@pytest.mark.parametrize("delay_us", [0, 100])
async def test_a_restart(tmp_path_factory, delay_us):
    """Killed, and back at once or LOADING for a second: what counted is not lost."""
    folder = tmp_path_factory.mktemp("r")
    options = ("--key-load-delay", str(delay_us))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_redis(folder, appendonly="yes"))
        server.ask("EVAL", "for at = 1, 9000 do redis.call('SET', at, at) end", 0)
        async with traffic(server.url) as calls:
            server.process.kill()
            await calls.see("away")
            calls.forget()
            started = time.monotonic()
            again = running_redis(folder, appendonly="yes", options=options)
            server = await asyncio.to_thread(stack.enter_context, again)
            assert time.monotonic() - started >= 9000 * delay_us / 1e6
            assert {"Redis is away"} >= set(calls.reasons) - {None}


async def test_a_demoted_master_is_left_for_the_new_one(tmp_path_factory, free_port):
    """READONLY: the address leads to another server now, or will soon.

    The link stands for a Service or a DNS name. While it leads to the replica each
    attempt costs a call, and attempts get rarer.
    """
    link = tmp_path_factory.mktemp("r") / "redis.sock"
    port = free_port()
    with running_redis(port=free_port()) as old, running_redis(port=port) as new:
        link.symlink_to(old.socket_path)
        new.ask("REPLICAOF", "127.0.0.1", old.port)
        await until(lambda: b"master_link_status:up" in new.ask("INFO", "replication"))
        async with traffic(f"unix://{link}") as calls:
            new.ask("REPLICAOF", "NO", "ONE")
            old.ask("REPLICAOF", "127.0.0.1", new.port)
            await calls.see("READONLY")
            before = connections(old)
            await asyncio.sleep(1)
            assert 1 <= connections(old) - before < 12
            other = link.with_name("new")
            other.symlink_to(new.socket_path)
            other.replace(link)
            await calls.see(None)
            calls.forget()
            await calls.see(None)
            assert {None} == set(calls.reasons)


@pytest.mark.parametrize(
    ("code", "stays"),
    [("LOADING", False), ("MASTERDOWN", False), ("READONLY", False), ("OOM", True)],
)
async def test_what_makes_us_leave(tmp_path_factory, code, stays):
    """Only a server that isn't the master, or not yet, is tried anew."""
    path = tmp_path_factory.mktemp("r") / "socket"
    answers: list[bytes] = []
    made, ended = [], []

    async def talk(reader, writer):
        made.append(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                writer.write(answers.pop() if answers else b"+PONG\r\n")
        writer.close()
        ended.append(writer)

    async with await asyncio.start_unix_server(talk, path):
        client = await Redis.connect(f"unix://{path}", budget_seconds=1)
        try:
            answers.append(f"-{code} why\r\n".encode())
            with pytest.raises(Unavailable, match=code):
                await client.call("PING")
            await asyncio.sleep(0)
            assert stays is client.connected
            await until(lambda: client.connected)
            assert b"PONG" == await client.call("PING")
            assert (1 if stays else 2) == len(made)
        finally:
            await client.close()
            await until(lambda: made == ended)


def connections(server):
    """How many this server has accepted, ours for asking too."""
    text = server.ask("INFO", "stats").decode()
    return int(text.partition("total_connections_received:")[2].split()[0])


async def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
