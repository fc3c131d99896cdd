"""A real Envoy's ledger, rotated, cut and on a full disk: no line lost or repeated."""

import asyncio
import contextlib
import resource
from collections import Counter
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.e2e.edge.backend import answer
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import running_edge
from tollhouse.adapters.address import Address
from tollhouse.adapters.ledger import LedgerReader
from tollhouse.adapters.ledger_rotation import Rotation
from tollhouse.core.ledger import parse
from tollhouse.core.problems import ProtocolError

pytestmark = pytest.mark.asyncio(loop_scope="session")

_CHAT = "/v1/chat/completions"
SOON = 30.0
LARGEST_BYTES = 10_000
"""Less than 25 lines."""


@pytest_asyncio.fixture(loop_scope="session")
async def edge(tmp_path_factory):
    """An Envoy of each test's own, its ledger empty."""
    async with running_edge(tmp_path_factory.mktemp("rotation"), find_port) as running:
        yield running


@dataclass
class Following:
    """A reader at work, as the settler is: it commits what it has noted."""

    reader: LedgerReader
    kept: dict = field(default_factory=dict)
    ends: Counter = field(default_factory=Counter)
    misread: list = field(default_factory=list)

    def read(self, *, commit=True):
        while lines := self.reader.read():
            for raw in lines:
                try:
                    line = parse(raw)
                except ProtocolError:
                    self.misread.append(raw)
                else:
                    self.ends[line.exchange] += line.type == "DownstreamEnd"
            if not commit:
                return
            positions = self.reader.uncommitted()
            self.kept.update(positions)
            self.reader.commit(positions)

    def die(self):
        """Be followed by another one, which has what was committed."""
        path = self.reader.folder.path
        self.reader.close()
        self.reader = LedgerReader(path)
        assert self.reader.lock()
        self.reader.seek(
            {it: position for it, position in self.kept.items() if position}
        )


@pytest.fixture
def following(edge):
    reader = LedgerReader(edge.folder / "ledger.jsonl")
    assert reader.lock()
    made = Following(reader)
    yield made
    made.reader.close()


def rotation(edge, following, *, admin=None):
    address = Address(host="127.0.0.1", port=admin or edge.admin)
    return Rotation(following.reader, address, largest_bytes=LARGEST_BYTES)


def rotated(edge):
    return list(edge.folder.glob("ledger.jsonl.rotated-*"))


async def ask(edge, number):
    """Send so many requests; the ids of their exchanges."""
    script = edge.backend.script(answer(b'{"usage":{"completion_tokens":4}}'))
    ids = []
    async with edge.client() as client:
        for _ in range(number):
            response = await client.post(
                _CHAT, json={}, headers={"x-test-script": script}
            )
            assert response.status_code == 200
            ids.append(response.headers["x-tollhouse-exchange"])
    return ids


async def until(condition):
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110  # another process decides
            await asyncio.sleep(0.02)


async def read_all(following, ids):
    """Read until every exchange has ended."""

    def ended():
        following.read()
        return following.ends.keys() >= set(ids)

    await until(ended)


async def test_rotation_under_load_loses_and_repeats_no_line(edge, following):
    """Renamed, reopened, finished and deleted, again and again."""
    turns = rotation(edge, following)
    asking = [asyncio.create_task(ask(edge, 100)) for _ in range(4)]
    with capture_logs() as logs:
        while not all(task.done() for task in asking):
            following.read()
            await turns.tend()
            await asyncio.sleep(0.1)
        ids = [id_ for task in asking for id_ in task.result()]
        await read_all(following, ids)
        while rotated(edge):
            ids += await ask(edge, 1)  # the last one goes when its successor has a line
            await read_all(following, ids)
            await turns.tend()

    happened = Counter(it["event"] for it in logs)
    assert Counter(ids) == following.ends
    assert [] == following.misread
    assert happened["ledger.rotated"] == happened["ledger.deleted"] >= 3
    assert happened.keys() <= {"ledger.rotated", "ledger.reopened", "ledger.deleted"}


async def test_an_envoy_that_cannot_be_asked_is_asked_again(edge, following):
    """It goes on in the renamed file, which has one name and is not renamed again."""
    unheard = rotation(edge, following, admin=find_port())
    ids = await ask(edge, 30)
    await read_all(following, ids)

    with capture_logs() as logs:
        for _ in range(3):
            await unheard.tend()
        assert rotated(edge)
        ids += await ask(edge, 30)
        await read_all(following, ids)
        await unheard.tend()

    (old,) = rotated(edge)
    assert ["ledger.rotated", "rotation.failed"] == [it["event"] for it in logs]
    assert not (edge.folder / "ledger.jsonl").exists()

    turns = rotation(edge, following)
    await turns.tend()
    await until((edge.folder / "ledger.jsonl").exists)
    await turns.tend()
    assert old.exists()  # an empty file may be anybody's

    ids += await ask(edge, 1)
    await read_all(following, ids)
    await turns.tend()

    assert not old.exists()
    assert Counter(ids) == following.ends


@pytest.mark.parametrize("dies_after", ["rename", "reopen", "read"])
async def test_a_reader_that_dies_between_the_steps(edge, following, dies_after):
    """Its successor finds the renamed file by what it has of it, and takes over."""
    ids = await ask(edge, 10)
    await read_all(following, ids)
    ids += await ask(edge, 25)
    ledger = edge.folder / "ledger.jsonl"
    await until(lambda: ledger.stat().st_size > LARGEST_BYTES)
    dead = find_port() if dies_after == "rename" else None
    await rotation(edge, following, admin=dead).tend()
    assert rotated(edge)
    if dies_after == "read":
        following.read(commit=False)
    ids += await ask(edge, 5)

    following.die()
    turns = rotation(edge, following)
    for _ in range(3):
        await turns.tend()
        ids += await ask(edge, 1)
        await asyncio.sleep(0.1)  # flushed
    assert rotated(edge)  # not all of it is committed yet

    await read_all(following, ids)
    async with asyncio.timeout(SOON):
        while rotated(edge):
            await turns.tend()
            ids += await ask(edge, 1)
            await read_all(following, ids)

    assert set(ids) == following.ends.keys()
    repeated = [id_ for id_, times in following.ends.items() if times > 1]
    assert (dies_after == "read") == bool(repeated)


@pytest.mark.parametrize("name", ["ledger.jsonl.1", "elsewhere"])
async def test_an_operators_rename_is_followed(edge, following, name):
    """Envoy is asked to reopen, the file is finished, and it stays."""
    ids = await ask(edge, 3)
    await read_all(following, ids)
    old = (edge.folder / "ledger.jsonl").rename(edge.folder / name)
    ids += await ask(edge, 3)
    following.die()
    await read_all(following, ids)
    turns = rotation(edge, following)

    await turns.tend()
    await until((edge.folder / "ledger.jsonl").exists)
    ids += await ask(edge, 3)
    await read_all(following, ids)
    await turns.tend()

    assert Counter(ids) == following.ends
    assert 6 == len(old.read_bytes().splitlines())


async def test_a_removed_ledger_is_made_anew(edge, following):
    """What Envoy wrote into the file without a name is read all the same."""
    ids = await ask(edge, 2)
    await read_all(following, ids)
    (edge.folder / "ledger.jsonl").unlink()
    ids += await ask(edge, 2)
    await read_all(following, ids)

    await rotation(edge, following).tend()
    await until((edge.folder / "ledger.jsonl").exists)
    ids += await ask(edge, 2)

    await read_all(following, ids)
    assert Counter(ids) == following.ends


@pytest.mark.parametrize("grows", [1, 12])
async def test_a_truncated_ledger_is_read_from_its_start(edge, following, grows):
    """Cut while Envoy writes, and seen when it is smaller or larger than it was."""
    ids = await ask(edge, 6)
    await read_all(following, ids)
    with (edge.folder / "ledger.jsonl").open("wb"):
        pass

    ids += await ask(edge, grows)
    await asyncio.sleep(0.1)  # flushed
    with capture_logs() as logs:
        await read_all(following, ids)

    assert Counter(ids) == following.ends
    assert [] == following.misread
    assert ["ledger.truncated"] == [it["event"] for it in logs]


@contextlib.contextmanager
def full_disk(edge, room):
    """No file of Envoy's grows beyond the ledger's size and some room."""
    size = (edge.folder / "ledger.jsonl").stat().st_size + room
    assert (edge.folder / "envoy.log").stat().st_size < size
    pid, limits = edge.process.pid, (size, resource.RLIM_INFINITY)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    try:
        yield size
    finally:
        if edge.process.returncode is None:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)


async def test_an_envoy_killed_within_a_line_and_restarted(edge, following):
    """Half a line is none, and does no harm to the whole one behind it."""
    ids = await ask(edge, 5)
    await read_all(following, ids)
    with full_disk(edge, 100) as size:
        (half,) = await ask(edge, 1)
        await until(lambda: (edge.folder / "ledger.jsonl").stat().st_size == size)
        following.read()
        edge.process.kill()
        await edge.process.wait()
    following.read()
    ends_before = Counter(following.ends)

    await edge.restart()
    later = await ask(edge, 3)
    await read_all(following, later)

    assert Counter(ids) == ends_before
    assert Counter(ids + later) == following.ends
    assert half not in following.ends
    assert [] == following.misread


async def test_requests_go_on_while_the_disk_is_full(edge, following):
    """Lines that could not be written are lost, none other, and none is twice."""
    ids = await ask(edge, 5)
    await read_all(following, ids)

    with full_disk(edge, 0):
        lost = await ask(edge, 5)
        last = []
        for _ in range(2):  # what fails behind a later line has all of theirs
            failed = await edge.counter("filesystem.write_failed")
            last += await ask(edge, 1)
            async with asyncio.timeout(SOON):
                while await edge.counter("filesystem.write_failed") == failed:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        following.read()
    later = await ask(edge, 5)
    await read_all(following, later)

    ends = {id_: it for id_, it in following.ends.items() if id_ not in last}
    assert Counter(ids + later) == ends
    assert not following.ends.keys() & set(lost)
    assert [] == following.misread
