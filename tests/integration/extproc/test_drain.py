"""The drain, in front of an Envoy's admin listener that does what a test wrote down.

What a real one makes of it: tests/e2e/edge/test_drain.py.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tollhouse.adapters.address import Address
from tollhouse.adapters.envoy_drain import DrainError, drain_envoy
from tollhouse.adapters.http_server import HttpServer, listening
from tollhouse.extproc.drain import DrainEndpoint

pytestmark = pytest.mark.timed

STATS = "/stats?filter=%5Ehttp%5C.edge%5C.downstream_rq_%28active%7Ctotal%29%24"
FAIL = "POST /healthcheck/fail"
DRAIN = "POST /drain_listeners?graceful&skip_exit"
SOON = 20.0


@dataclass
class Admin:
    """Envoy's admin listener; it ends once it has said all that it was given."""

    address: Address
    looks: list[tuple[int, int]]
    """Active requests and all so far, at each look; the last stays."""
    status: int = 200
    hangs: int = 0
    """Calls that get no answer, before all others."""
    stays: bool = True
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader, writer):
        line = (await reader.readuntil(b"\r\n\r\n")).decode().partition(" HTTP/")[0]
        self.asked.append(line)
        if self.hangs:
            self.hangs -= 1
            await reader.read()
        elif line != f"GET {STATS}":
            writer.write(b"HTTP/1.1 %d X\r\n\r\nOK\n" % self.status)
        elif self.looks:
            active, total = self.looks[0]
            del self.looks[: len(self.looks) > 1 or not self.stays]
            name = "http.edge.downstream_rq"
            text = f"{name}_active: {active}\n{name}_total: {total}\n"
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + text.encode())
        writer.close()


@pytest.fixture
def start_admin(tmp_path):
    """Start one; it is gone when the test is over."""
    servers = []

    async def start(*looks, **about):
        admin = Admin(Address(path=str(tmp_path / "a.sock")), list(looks), **about)
        server = await asyncio.start_unix_server(admin.serve, admin.address.path)
        servers.append(server)
        return admin

    yield start
    for server in servers:
        server.close()


async def drained(admin, *, notice=0.0, quiet=0.0, most=SOON):
    began = time.monotonic()
    left = await drain_envoy(
        admin.address, notice_seconds=notice, quiet_seconds=quiet, most_seconds=most
    )
    return left, time.monotonic() - began


async def test_waits_for_what_runs(start_admin):
    """Readiness, after a while the listeners, then looks until nothing runs."""
    admin = await start_admin((2, 6), (2, 7), (1, 7), (0, 7))

    left, seconds = await drained(admin, notice=0.2)

    assert 0 == left
    look = f"GET {STATS}"
    assert [look, FAIL, DRAIN, look, look, look] == admin.asked
    assert 0.4 < seconds


async def test_requests_that_still_come_count(start_admin):
    """None runs at any look, but their number grows: it is not quiet yet."""
    admin = await start_admin((0, 6), (0, 7), (0, 8), (0, 9), (0, 10))

    assert 0 == (await drained(admin, quiet=0.15))[0]

    assert 6 <= admin.asked.count(f"GET {STATS}") - 1


async def test_says_what_is_left(start_admin):
    """A stream that outlives the drain is not waited for any longer."""
    left, seconds = await drained(await start_admin((3, 7)), most=0.3)

    assert 3 == left
    assert 0.3 <= seconds < SOON


@pytest.mark.parametrize("looks", [[(1, 7)], [(1, 7), (1, 7)]])
async def test_an_envoy_that_ended_has_nothing_left(start_admin, looks):
    """Whenever it went, once it was there."""
    admin = await start_admin(*looks, stays=False)

    assert 0 == (await drained(admin))[0]


async def test_nobody_listens(tmp_path):
    """Perhaps at another path than Envoy's: what runs there must not be cut."""
    admin = Admin(Address(path=str(tmp_path / "none.sock")), [])

    with pytest.raises(DrainError, match="can't be reached"):
        await drained(admin)


async def test_who_answers_nothing_is_not_known(start_admin):
    """It may be Envoy or not; streams may run."""
    admin = await start_admin(stays=False)

    with pytest.raises(DrainError, match="can't be reached"):
        await drained(admin)


async def test_an_admin_listener_that_refuses(start_admin):
    """Its path is not allowed: Envoy lives on, so this is no success."""
    with pytest.raises(DrainError, match="POST /healthcheck/fail: status 403"):
        await drained(await start_admin((0, 0), status=403))


async def test_an_admin_listener_that_hangs_is_asked_again(start_admin):
    """A busy Envoy is one that must be drained."""
    admin = await start_admin((0, 0), hangs=1)

    assert 0 == (await drained(admin))[0]
    assert [f"GET {STATS}"] * 2 + [FAIL, DRAIN] == admin.asked[:4]


@dataclass
class Ends:
    """What the endpoint is told by those who drain and settle."""

    left: int = 0
    is_settled: bool = True
    refuses: bool = False
    drains: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def drain(self):
        self.drains += 1
        await self.may_end.wait()
        if self.refuses:
            raise DrainError("status 403")
        return self.left

    async def settle(self):
        return self.is_settled


@contextlib.asynccontextmanager
async def serving(folder: Path, ends, permit=None):
    """A client of the endpoint, which serves on a socket."""
    path = folder / "drain.sock"
    endpoint = DrainEndpoint(ends.drain, ends.settle, permit, permit_seconds=0.4)
    with listening(f"unix:{path}") as listener:
        server = HttpServer(endpoint, listener, drain_seconds=1, keep_alive_seconds=5)
        task = asyncio.create_task(server.run())
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://x"
        ) as client:
            yield client
        await server.drain()
        await task


@pytest.mark.parametrize(
    ("about", "status", "body"),
    [
        ({}, 200, b'{"requests":0,"is_settled":true}'),
        ({"left": 2}, 503, b'{"requests":2,"is_settled":true}'),
        ({"is_settled": False}, 503, b'{"requests":0,"is_settled":false}'),
        ({"refuses": True}, 502, b""),
    ],
)
async def test_answers_how_it_ended(tmp_path, about, status, body):
    """200 says that Envoy can be stopped at nobody's cost."""
    ends = Ends(**about)
    ends.may_end.set()

    async with serving(tmp_path, ends) as client:
        answer = await client.get("/drain")

    assert (status, body) == (answer.status_code, answer.content)


@pytest.mark.timed  # the second one has to come before the end
async def test_further_callers_join(tmp_path):
    """Also when the first one has hung up; a later call begins anew."""
    ends = Ends()

    async with serving(tmp_path, ends) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/drain", timeout=0.1)
        second = asyncio.create_task(client.get("/drain"))
        await asyncio.sleep(0.1)
        ends.may_end.set()
        assert 200 == (await second).status_code
        assert 1 == ends.drains
        await client.get("/drain")

    assert 2 == ends.drains


@pytest.mark.timed  # the file has to come in time
async def test_nothing_happens_without_the_permit(tmp_path):
    """Whoever reaches the port can't make the file; who can need not be first."""
    ends, permit = Ends(), tmp_path / "terminating"
    ends.may_end.set()

    async with serving(tmp_path, ends, permit) as client:
        assert 403 == (await client.get("/drain")).status_code
        assert 0 == ends.drains
        call = asyncio.create_task(client.get("/drain"))
        await asyncio.sleep(0.1)
        permit.touch()
        assert 200 == (await call).status_code

    assert 1 == ends.drains


async def test_other_requests_do_nothing(tmp_path):
    """There is one path and one method."""
    ends = Ends()

    async with serving(tmp_path, ends) as client:
        for method, path in (("GET", "/"), ("GET", "/drain/"), ("POST", "/drain")):
            assert (await client.request(method, path)).status_code in (404, 405)

    assert 0 == ends.drains
