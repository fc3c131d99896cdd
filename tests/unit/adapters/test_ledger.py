"""Reading the ledger file from a kept position."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.adapters.ledger import CHUNK_BYTES, LedgerReader, Position


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def reader(path):
    with LedgerReader(path) as opened:
        yield opened


def append(path, content):
    with path.open("ab") as file:
        file.write(content)


def test_waits_for_a_file_that_is_not_there_yet(reader, path):
    """Either of the two may start first."""
    assert [] == reader.read()

    append(path, b"one\n")

    assert [b"one"] == reader.read()


def test_stops_at_the_last_whole_line(reader, path):
    """Envoy writes in pieces; half a line is no line yet."""
    append(path, b"one\ntwo\nthr")

    assert [b"one", b"two"] == reader.read()
    assert [] == reader.read()

    append(path, b"ee\n")

    assert [b"three"] == reader.read()


def test_goes_on_where_a_reader_before_it_committed(reader, path):
    """What was not committed is read again, what was is not."""
    append(path, b"one\ntwo\n")
    reader.read()
    committed = reader.position
    append(path, b"three\n")

    with LedgerReader(path) as successor:
        successor.seek(committed)

        assert [b"three"] == successor.read()


@pytest.mark.parametrize("offset", [0, 4, 10_000])
def test_starts_over_in_another_file(reader, path, offset):
    """An offset belongs to its inode, and never lies behind the end."""
    append(path, b"one\ntwo\n")
    reader.read()
    inode = reader.position.inode

    with LedgerReader(path) as successor:
        successor.seek(Position(inode + 1, offset))

        assert [b"one", b"two"] == successor.read()


def test_follows_a_file_that_is_replaced(reader, path):
    """Rotated while we read: its last lines first, then those of its successor."""
    append(path, b"one\n")
    assert [b"one"] == reader.read()

    old = path.rename(path.with_suffix(".1"))
    assert [] == reader.read()
    path.touch()
    append(old, b"two\n")
    assert [b"two"] == reader.read()

    append(old, b"three\n")
    append(path, b"four\n")
    assert [b"three"] == reader.read()
    assert [b"four"] == reader.read()
    assert path.stat().st_ino == reader.position.inode


def test_starts_over_in_a_file_that_is_truncated(reader, path):
    """Envoy appends at the new end, before where we were."""
    append(path, b"one\ntwo\n")
    reader.read()

    path.write_bytes(b"")
    assert [] == reader.read()
    append(path, b"three\n")

    assert [b"three"] == reader.read()


def test_a_line_longer_than_a_chunk_is_one_line(reader, path):
    """No bound of ours may cut a line in two."""
    long = b"x" * (3 * CHUNK_BYTES)
    append(path, long + b"\nnext\n")

    lines = reader.read() + reader.read()

    assert [long, b"next"] == lines


def test_hands_out_no_more_than_a_chunk(reader, path):
    """A long spool is settled in pieces, not in one memory-filling step."""
    append(path, (b"y" * 99 + b"\n") * (CHUNK_BYTES // 50))

    first = reader.read()

    assert 0 < len(first) <= CHUNK_BYTES // 100
    assert len(first) + len(reader.read()) + len(reader.read()) == CHUNK_BYTES // 50


@given(st.lists(st.binary(max_size=20), max_size=12))
def test_any_pieces_give_the_same_lines(tmp_path_factory, pieces):
    """However the file grows, each whole line is handed out once, in order."""
    path = tmp_path_factory.mktemp("pieces") / "ledger.jsonl"
    got = []
    with LedgerReader(path) as reader:
        for piece in pieces:
            append(path, piece.replace(b"\x01", b"\n"))
            got += reader.read()
    written = b"".join(pieces).replace(b"\x01", b"\n")

    assert written.split(b"\n")[:-1] == got


def test_only_one_process_reads(reader, path):
    """The lock keeps every other worker away and dies with its holder."""
    ask = (
        "import sys, pathlib; from tollhouse.adapters.ledger import LedgerReader;"
        "print(LedgerReader(pathlib.Path(sys.argv[1])).lock())"
    )

    def other():
        return subprocess.run(
            [sys.executable, "-c", ask, str(path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    assert reader.lock()
    assert "False" == other()

    reader.close()

    assert "True" == other()
