"""The billing ledger: files with each chunk once, whatever interrupts the writing."""

import asyncio
import os
import tracemalloc
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import examples
from tollhouse.adapters.billing_ledger import BillingLedger
from tollhouse.adapters.charge_lines import Format, head
from tollhouse.core.catalog import Catalog
from tollhouse.core.chunk import Account, Attempt, Chunk, Verdict, Window
from tollhouse.core.problems import Unavailable
from tollhouse.core.windows import TokenType

HOUR = 497_000
WINDOW = Window("acme", "m", TokenType.OUTPUT, HOUR)
CHUNK = Chunk(
    window=WINDOW,
    seq=1,
    value=70,
    timestamp=HOUR * 3600,
    identifier="th1_08_1",
    event_name="tollhouse.m.output",
    account=Account("ledger", "acme"),
)
DAY = "usage-2026-09-12"


def chunk(number, **changes):
    return replace(CHUNK, identifier=f"th1_08_{number}", **changes)


@pytest.fixture(params=Format)
def open_ledger(request, tmp_path):
    """Open the same folder, as each start does."""
    opened = []

    def open_(folder=tmp_path / "billing", format_=request.param, **options):
        catalog = Catalog({"m": examples.model()}, {})
        ledger = BillingLedger(
            folder, format_, deployment="here", catalog=lambda: catalog, **options
        )
        opened.append(ledger)
        return ledger

    yield open_
    for ledger in opened:
        ledger.close()


def ship(ledger, *chunks):
    answers = asyncio.run(ledger.ship([Attempt(it, 1) for it in chunks]))
    return [answer.verdict for answer in answers]


def lines(ledger):
    path = ledger.path(CHUNK.timestamp)
    content = path.read_text()
    return content.removeprefix(head(ledger._format)).splitlines()


def test_a_chunk_is_written_once(open_ledger):
    """Also for a process that starts again, and among others."""
    ledger = open_ledger()

    first = ship(ledger, chunk(1), chunk(2))
    again = ship(open_ledger(), chunk(2), chunk(3))

    assert [Verdict.ACCEPTED, Verdict.ACCEPTED] == first
    assert [Verdict.DUPLICATE, Verdict.ACCEPTED] == again
    assert 3 == len(lines(ledger))
    assert DAY == ledger.path(CHUNK.timestamp).stem


def test_two_processes_write_the_same_file(open_ledger):
    """Each reads what the other wrote meanwhile."""
    one, other = open_ledger(), open_ledger()

    told = [
        ship(ledger, chunk(number))
        for number in range(4)
        for ledger in (one, other, one)
    ]

    assert [[Verdict.ACCEPTED], [Verdict.DUPLICATE], [Verdict.DUPLICATE]] * 4 == told
    assert 4 == len(lines(one))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cut=st.integers(1, 2000))
def test_a_torn_line_is_cut_off(open_ledger, tmp_path_factory, cut):
    """Whatever was left of it after a crash: the next attempt writes it whole."""
    ledger = open_ledger(tmp_path_factory.mktemp("billing"))
    ship(ledger, chunk(1))
    path = ledger.path(CHUNK.timestamp)
    whole = path.stat().st_size
    ship(ledger, chunk(2))
    size = path.stat().st_size
    os.truncate(path, max(whole, size - cut))

    told = ship(open_ledger(ledger._folder), chunk(2))

    assert [Verdict.ACCEPTED] == told
    assert (2, size) == (len(lines(ledger)), path.stat().st_size)


def test_a_full_disk_stops_it_and_leaves_nothing_half(open_ledger, tmp_path):
    """No chunk is to blame; what was there stays readable."""
    ledger = open_ledger()
    ship(ledger, chunk(1))
    path = ledger.path(CHUNK.timestamp)
    content = path.read_bytes()
    path.unlink()
    path.symlink_to("/dev/full")

    with pytest.raises(Unavailable):
        ship(ledger, chunk(2))

    path.unlink()
    path.write_bytes(content)
    assert [Verdict.DUPLICATE] == ship(ledger, chunk(1))
    assert [Verdict.ACCEPTED] == ship(ledger, chunk(2))


@pytest.mark.parametrize(
    "line", [b"hello", b"\xff\xfe", b'{"id":"th1_\xe9"}', b"a\rb", b"7", b""]
)
def test_a_foreign_line_stops_it(open_ledger, line):
    """A file that somebody edited may lack what was charged: nothing is guessed."""
    ledger = open_ledger()
    ship(ledger, chunk(1))
    with ledger.path(CHUNK.timestamp).open("ab") as file:
        file.write(line + b"\n")

    for opened in (ledger, open_ledger()):
        for _ in range(2):
            with pytest.raises(Unavailable, match="none of ours"):
                ship(opened, chunk(2))


def test_a_line_with_a_byte_that_is_no_text_stops_it(open_ledger):
    """It would be somebody else's tokens that are added up."""
    ledger = open_ledger()
    ship(ledger, chunk(1))
    path = ledger.path(CHUNK.timestamp)
    path.write_bytes(path.read_bytes().replace(b"acme", b"acm\xe9"))

    with pytest.raises(Unavailable, match="none of ours"):
        ship(open_ledger(), chunk(2))


def test_another_format_writes_no_chunk_again(open_ledger):
    """The setting is changed, and changed back; sums are of both files."""
    one, other = (open_ledger(format_=it) for it in Format)

    told = [
        ship(ledger, chunk(1), chunk(number))
        for number, ledger in enumerate((one, other, one, other), start=2)
    ]

    a, d = Verdict.ACCEPTED, Verdict.DUPLICATE
    assert [[a, a], [d, a], [d, a], [d, a]] == told
    assert 5 == len(lines(one)) + len(lines(other))
    for ledger in (one, other):
        minute = CHUNK.timestamp
        account = CHUNK.account.customer, CHUNK.event_name
        assert 350 == asyncio.run(ledger.total(*account, minute, minute + 60))


def test_answers_are_in_the_order_of_the_chunks(open_ledger):
    """Those of a call are of several days, mixed."""
    ledger, day = open_ledger(), 86_400
    ship(ledger, chunk(1), chunk(2, timestamp=CHUNK.timestamp + day))

    told = ship(
        ledger,
        chunk(1),
        chunk(4, timestamp=CHUNK.timestamp + day),
        chunk(3),
        chunk(2, timestamp=CHUNK.timestamp + day),
    )

    a, d = Verdict.ACCEPTED, Verdict.DUPLICATE
    assert [d, a, a, d] == told


def test_totals_are_by_customer_meter_and_minute(open_ledger):
    ledger = open_ledger()
    minute = CHUNK.timestamp
    ship(
        ledger,
        chunk(1),
        chunk(2, timestamp=minute + 60, value=-20),
        chunk(3, event_name="tollhouse.m.cached_input"),
        chunk(4, account=Account("ledger", "zeta")),
        chunk(5, timestamp=minute + 24 * 3600, value=5),
    )

    def total(start, end, customer="acme"):
        return asyncio.run(ledger.total(customer, CHUNK.event_name, start, end))

    assert 70 == total(minute, minute + 60)
    assert -20 == total(minute + 60, minute + 120)
    assert 50 == total(minute, minute + 3600)
    assert 55 == total(minute, minute + 25 * 3600)
    assert 70 == total(minute, minute + 60, "zeta")
    assert 0 == total(minute - 60, minute)


def test_months_of_files_are_not_kept_in_memory(open_ledger):
    """Lines are counted, not days: a day may have any number. One day always stays."""
    with closing(open_ledger(most_indexed=10)) as ledger:
        for day in range(30):
            for number in range(3):
                at = CHUNK.timestamp + day * 86_400
                ship(ledger, chunk(10 * day + number, timestamp=at))

        assert [27, 28, 29] == [it - CHUNK.timestamp // 86_400 for it in ledger._days]
        ship(ledger, *(chunk(1000 + number) for number in range(20)))
        assert [Verdict.DUPLICATE] == ship(ledger, chunk(1001))
        assert 23 == indexed(ledger)


def indexed(ledger):
    return sum(len(it.charges) for day in ledger._days.values() for it in day.values())


def test_a_line_in_memory_costs_what_is_promised(open_ledger):
    """docs/billing.md: 442 bytes, 133 MB of all that are kept."""
    with closing(open_ledger()) as ledger:
        tenants = [
            chunk(
                f"{number:040x}",
                event_name="tollhouse.llama-3.1-8b-instruct.uncached_input",
                account=Account("ledger", f"tenant-{number:04d}"),
                value=1_000_000 + number,
            )
            for number in range(2000)
        ]
        ship(ledger, *tenants)
        ledger._days.clear()

        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        ship(ledger, tenants[0])
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert 2000 == indexed(ledger)
        assert 442 == pytest.approx((after - before) / 2000, rel=0.1)


def test_only_its_owner_reads_it(open_ledger):
    """Who pays what is nobody else's business."""
    ledger = open_ledger()
    ship(ledger, chunk(1))

    assert 0o700 == ledger._folder.stat().st_mode & 0o777
    assert 0o600 == ledger.path(CHUNK.timestamp).stat().st_mode & 0o777


def test_calls_at_once_write_each_chunk_once(open_ledger):
    """The shipper has several calls under way, each on a thread of its own."""
    ledger = open_ledger()

    async def all_at_once():
        calls = [
            ledger.ship([Attempt(chunk(number), 1) for number in range(at, at + 8)])
            for at in range(40)
        ]
        totals = [
            ledger.total("acme", CHUNK.event_name, HOUR * 3600, HOUR * 3600 + 60)
            for _ in range(40)
        ]
        await asyncio.gather(*calls, *totals)

    asyncio.run(all_at_once())

    assert 40 + 7 == len(lines(ledger))
