"""Whatever becomes of the ledger and of who reads it: each exchange has one record.

Through the real Envoy, with two workers of which one reads.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.attempts import attempt
from tests.e2e.main import books, load
from tests.e2e.main.conftest import ENGINE, PLANS
from tests.e2e.running_stack import running_stack, short_folder, write_config
from tollhouse.adapters.ledger_rotation import LARGEST_BYTES
from tollhouse.core.ids import exchange_id

TAKEN_OVER_SECONDS = 30.0
REAPED_SECONDS = 60.0
"""Lease (20 s), the reaper's period (5 s), and slack."""
CONCURRENT = 12


@pytest.fixture(scope="module")
def stack():
    """A stack of its own: its readers die, its ledger is maltreated."""
    with short_folder() as folder:
        config = write_config(folder / "ledger.yaml", plans=PLANS, engine=ENGINE)
        with running_stack(folder, "--workers", "2", config=config) as running:
            yield running


@pytest.fixture
def tenant(stack, request):
    """A tenant of the test's own, and its key."""
    name = request.node.name.replace("_", "-")[:40].strip("-")
    if again := attempt(request.node):
        name = f"{name}-{again}"
    stack.run("tenants", "create", name, "--plan", "roomy")
    return name, stack.run("keys", "create", "--tenant", name).strip()


@pytest.fixture
def ledger(stack):
    return stack.state_dir / "ledger" / "ledger.jsonl"


def reader(ledger):
    """Pid of the worker that holds the ledger's lock, None while nobody does."""
    inode = ledger.with_name(ledger.name + ".lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        if " FLOCK " in line and f":{inode} " in line and "->" not in line:
            return int(line.split()[4])
    return None


def kill_reader(stack, ledger):
    """Kill whoever reads; return when another one does and there are two again."""
    dead = reader(ledger)
    (part,) = (name for name, pid in stack.pids.items() if pid == dead)
    os.kill(dead, signal.SIGKILL)
    books.within(TAKEN_OVER_SECONDS, lambda: reader(ledger) not in (None, dead))
    stack.wait_until_restarted(part, dead)


def asked(stack, key, then=lambda: None, **options):
    """Run a load of streams read to their end; do something in its middle."""
    complete, cut = asked_and_cut(stack, key, then, **options)
    assert not cut
    return complete


def asked_and_cut(stack, key, then, *, requests=60, seed=1):
    """Do it; return the exchanges that were complete, and one that was cut at most.

    A worker that is killed in the milliseconds from an admission to its hanging up
    takes that stream with it.
    """

    async def run():
        begun = asyncio.Queue[None]()
        running = asyncio.create_task(
            load.mixed(
                stack.base_url,
                key,
                requests=requests,
                concurrent=CONCURRENT,
                seed=seed,
                aborted=0.0,
                max_tokens=lambda chance: chance.randint(60, 200),
                begun=begun,
            )
        )
        async with asyncio.timeout(60):
            for _ in range(requests // 4):
                await begun.get()
        await asyncio.to_thread(then)
        return await running

    seen = asyncio.run(run())
    ends = Counter(one.end for one in seen)
    # Others are refused until a worker that was killed is back.
    odd = [one for one in seen if one.end not in ("complete", "refused")]
    assert {one.end for one in odd} <= {"cut"}, odd
    assert len(odd) <= 1, odd
    assert ends["complete"] >= requests // 8, seen
    complete = [one.exchange for one in seen if one.end == "complete"]
    return complete, [one.exchange for one in odd]


def reopen(stack):
    assert httpx.post(stack.admin_url + "/reopen_logs").is_success


def assert_billed_exactly(stack, tenant, exchanges, cut=(), *, most_refused=0):
    """As the engine generated it, and once; of one that was cut no more than that.

    What a worker admitted just before it was killed, Envoy may refuse: that leaves a
    record of nothing, of `most_refused` exchanges at most.
    """
    books.rest(stack)
    truth = books.truth(stack.state_dir)
    rows = books.usage(stack, tenant)
    assert len(exchanges) <= rows["final"] <= len(exchanges) + most_refused
    assert rows["partial"] <= len(cut)
    assert rows["abandoned"] == 0
    for counted in ("input_tokens", "output_tokens"):
        exact = sum(getattr(truth[id_], counted) for id_ in exchanges)
        begun = sum(getattr(truth[id_], counted) for id_ in cut if id_ in truth)
        assert exact <= rows[counted] <= exact + begun


def open_files(pid):
    """What a process has open, as far as it still does when it is looked at."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(link.readlink()))
    return found


def events(stack):
    """How often extproc's workers have logged each event."""
    return Counter(
        json.loads(line)["event"]
        for log in (stack.state_dir / "logs").glob("extproc-*.log")
        for line in log.read_text().splitlines()
    )


def test_another_worker_takes_over_from_a_reader_that_is_killed(stack, ledger, tenant):
    """While lines keep coming; within seconds, and nothing is lost or doubled."""
    name, key = tenant

    exchanges, cut = asked_and_cut(stack, key, lambda: kill_reader(stack, ledger))

    assert_billed_exactly(stack, name, exchanges, cut, most_refused=CONCURRENT)


def test_a_large_ledger_is_rotated_and_its_reader_dies_of_it(stack, ledger, tenant):
    """Killed between the steps: its successor finishes the old file and deletes it."""
    name, key = tenant
    before = events(stack)

    def rotated():
        return list(ledger.parent.glob(ledger.name + ".rotated-*"))

    def grow():
        with ledger.open("ab", buffering=0) as file:
            file.write(b" " * LARGEST_BYTES + b"\n")
        books.within(60.0, lambda: bool(rotated()))
        kill_reader(stack, ledger)

    exchanges, cut = asked_and_cut(stack, key, grow, requests=120)

    assert_billed_exactly(stack, name, exchanges, cut, most_refused=CONCURRENT)
    asked(stack, key, requests=12, seed=2)  # lines in the new one
    books.within(30.0, lambda: not rotated())
    books.within(30.0, lambda: (events(stack) - before)["ledger.deleted"] > 0)
    happened = events(stack) - before
    assert 1 == happened["ledger.rotated"] == happened["ledger.deleted"]
    assert ledger.stat().st_size < LARGEST_BYTES


def test_a_ledger_renamed_by_hand_while_all_readers_are_dead(stack, ledger, tenant):
    """As logrotate does it: what was not read of the old file is read later."""
    name, key = tenant
    old = ledger.with_name(ledger.name + ".1")

    def rename():
        workers = {part: stack.pids[part] for part in ("extproc-0", "extproc-1")}
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)
        ledger.rename(old)
        reopen(stack)
        for part, pid in workers.items():
            stack.wait_until_restarted(part, pid)

    exchanges, cut = asked_and_cut(stack, key, rename)

    assert_billed_exactly(stack, name, exchanges, cut, most_refused=CONCURRENT)
    assert old.stat().st_size > 0


def test_an_envoy_killed_within_a_line_goes_on_behind_it(stack, ledger, tenant):
    """Its successor appends to the half line; the whole one behind it counts."""
    name, key = tenant
    exchanges = asked(stack, key, requests=12)
    # What Envoy has not flushed would be lost with it.
    books.within(
        30.0,
        lambda: books.settlements(stack.state_dir, name).keys() >= set(exchanges),
    )
    half = ledger.read_bytes().splitlines()[-1][:100]
    pid = stack.pids["envoy"]
    os.kill(pid, signal.SIGKILL)
    books.within(30.0, lambda: not psutil.pid_exists(pid))
    with ledger.open("ab", buffering=0) as file:
        file.write(half)
    stack.wait_until_restarted("envoy", pid)

    exchanges += asked(stack, key, requests=12, seed=2)

    assert_billed_exactly(stack, name, exchanges)
    assert half + b"{" in ledger.read_bytes()


def test_requests_go_on_while_the_ledger_is_on_a_full_disk(stack, ledger, tenant):
    """Whose end was not written is ABANDONED; nothing is billed twice afterwards."""
    name, key = tenant
    before = events(stack)
    exchanges = asked(stack, key, requests=12)
    # What Envoy still holds when it opens its file again goes into the new one.
    books.within(
        30.0,
        lambda: books.settlements(stack.state_dir, name).keys() >= set(exchanges),
    )
    ledger.rename(ledger.with_name(ledger.name + ".before"))
    ledger.symlink_to("/dev/full")
    reopen(stack)
    books.within(30.0, lambda: "/dev/full" in open_files(stack.pids["envoy"]))
    lost = asked(stack, key, requests=12, seed=2)
    books.within(30.0, lambda: (events(stack) - before)["ledger.irregular"] > 0)
    ledger.unlink()
    reopen(stack)
    books.within(30.0, ledger.exists)

    exchanges += asked(stack, key, requests=12, seed=3)
    books.rest(stack, REAPED_SECONDS)

    rows = books.usage(stack, name)
    truth = books.truth(stack.state_dir)
    assert (len(exchanges), 0, len(lost)) == (
        *(rows["final"], rows["partial"]),
        rows["abandoned"],
    )
    exact = sum(truth[id_].output_tokens for id_ in exchanges)
    generated = exact + sum(truth[id_].output_tokens for id_ in lost)
    assert exact <= rows["output_tokens"] <= generated


def test_an_old_ledger_put_back_is_billed_then_and_once(stack, ledger, tenant):
    """In its own hour, however often; limits of today do not notice."""
    name, key = tenant
    exchanges = asked(stack, key, requests=12)
    books.rest(stack)
    used_before, _ = books.units_bucket(stack, name)
    ago_ms = 5 * 3_600_000
    old = [_aged(line, ago_ms) for line in ledger.read_text().splitlines()]
    mine = [line for line in old if line["tenant"] == name]

    for copy in ("first", "again"):
        put_back = ledger.with_name(f"{ledger.name}.{copy}")
        _write(put_back, mine)
        books.within(30.0, partial(_is_read, stack, put_back))
        books.rest(stack)
        with books.connect(stack) as client:  # an hour passes
            for known in client.scan_iter("*:exchange:*"):
                client.delete(known)

    rows = json.loads(stack.run("usage", "--json", "--tenant", name))
    hours = {row["hour"]: row["exchanges"]["final"] for row in rows}
    then = datetime.fromtimestamp(_ended_seconds(mine[-1]), UTC)
    assert len(exchanges) == hours[then.strftime("%Y-%m-%dT%H:00:00Z")]
    assert 2 * len(exchanges) == sum(hours.values())
    assert books.units_bucket(stack, name)[0] <= used_before


def _aged(text, ago_ms):
    """The same exchange, so much earlier; its id is of that time and new."""
    line = json.loads(text)
    started = float(line["started_at"]) - ago_ms / 1000
    entropy = int(line["exchange"].replace("-", "")[13:], 16).to_bytes(10)
    id_ = exchange_id(int(started * 1000), entropy)
    return line | {"exchange": id_, "started_at": f"{started:.3f}"}


def _ended_seconds(line):
    return float(line["started_at"]) + line["duration_ms"] / 1000


def _write(path, lines):
    draft = path.with_name("draft")
    draft.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.move(draft, path)


def _is_read(stack, path):
    status = path.stat()
    with books.connect(stack) as client:
        position = client.hget("th:ledger:local", status.st_ino) or b"0"
    return status.st_size == int(position.split()[0])
