"""Reading a ledger from kept positions: each line once, or again after a death."""

import itertools
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tollhouse.adapters.ledger import (
    CHUNK_BYTES,
    TAIL_BYTES,
    LedgerReader,
    Position,
)
from tollhouse.adapters.ledger_files import LedgerFolder


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


def commit(reader):
    """As the settler does when what was read is done."""
    reader.commit(reader.uncommitted())


def committed(path):
    """The positions a reader of the file's present content would have committed."""
    content = path.read_bytes()
    position = Position.after(len(content), content[-TAIL_BYTES:])
    return {path.stat().st_ino: position}


def drained(reader):
    """All lines there are to read."""
    lines = []
    while read := reader.read():
        lines += read
        commit(reader)
    return lines


@pytest.fixture
def successor(path):
    """Another reader of the same ledger, started by `seek`."""
    with LedgerReader(path) as opened:
        yield opened


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


def test_goes_on_where_a_reader_before_it_committed(reader, successor, path):
    """What was not committed is read again, what was is not."""
    append(path, b"one\ntwo\n")
    reader.read()
    positions = reader.uncommitted()
    append(path, b"three\n")

    successor.seek(positions)

    assert [b"three"] == successor.read()


@pytest.mark.parametrize("offset", [0, 4, 10_000])
def test_reads_a_file_without_a_place_from_its_start(reader, path, offset):
    """A position belongs to its inode."""
    append(path, b"one\ntwo\n")

    reader.seek({path.stat().st_ino + 1: Position(offset, "")})

    assert [b"one", b"two"] == reader.read()


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


GROWN = (b"", b"uno\n", b"uno\ndue", b"uno\ndue\n", b"uno\ndue\ntre\n")


@pytest.mark.parametrize("change", list(itertools.product([0, 4], GROWN)))
@pytest.mark.parametrize("alive", [True, False])
def test_no_size_hides_that_a_file_is_another(reader, successor, path, change, alive):
    """Cut, and grown meanwhile to less, as much or more: or a deleted file's inode.

    All the same to a reader, and to one that starts with the position of the old one.
    """
    append(path, b"one\ntwo\n")
    first = reader.read()
    if not alive:
        successor.seek(reader.uncommitted())
        reader = successor
    kept, grown = change
    os.truncate(path, kept)
    append(path, grown)

    with capture_logs() as logs:
        lines = drained(reader)
        append(path, b"(end)\n")  # what only grew to the old size shows now
        lines += drained(reader)

    assert [b"one", b"two"] == first
    assert path.read_bytes().splitlines() == lines
    assert ["ledger.truncated"] == [it["event"] for it in logs]


def test_a_place_tells_apart_files_that_differ_in_one_line_before_it(reader, path):
    """Cut by one line and grown by another of its length."""
    lines = [b"%07d\n" % number for number in range(2 * TAIL_BYTES // 8)]
    append(path, b"".join(lines))
    drained(reader)

    os.truncate(path, path.stat().st_size - 8)
    append(path, b"another\n(end)\n")

    assert [b"another", b"(end)"] == drained(reader)[-2:]


def test_finishes_files_renamed_while_nobody_read(reader, path):
    """The oldest first, whatever their names say; then the new one from its start."""
    append(path, b'{"one"}\n{"two"}\n')
    positions = committed(path)
    append(path, b'{"three"}\n')
    names = (".2", ".1", "-20250101")
    for age, name in zip((3, 2, 1), names, strict=True):
        older = path.rename(path.with_name(path.name + name))
        os.utime(older, (0, 1_700_000_000 - age))
        append(path, b'{"after %s"}\n' % name.encode())

    reader.seek(positions)

    after = [b'{"after %s"}' % name.encode() for name in names]
    assert [b'{"three"}', *after] == drained(reader)
    assert [] == reader.read()


def test_finds_a_file_it_knows_under_any_name(reader, path):
    """By its inode; a stranger of such a name is no part of the ledger."""
    append(path, b"one\n")
    positions = committed(path)
    append(path, b"two\n")
    path.rename(path.with_name("elsewhere"))
    append(path.with_name("elsewhere too"), b"no line of ours\n")

    reader.seek(positions)

    assert [b"two"] == drained(reader)


def test_compressed_siblings_are_left_alone(reader, path):
    """They are no ledger, and no lag."""
    append(path.with_name(path.name + ".2.gz"), b"\x1f\x8b\nrubbish\n")
    append(path, b"one\n")
    reader.lock()

    assert [b"one"] == drained(reader)
    assert 0 == reader.lag()


def test_reads_a_removed_file_to_its_end(reader, path):
    """Envoy still has it open; its name is all that is gone."""
    with path.open("ab", buffering=0) as envoy:
        envoy.write(b"one\n")
        assert [b"one"] == reader.read()
        path.unlink()
        assert [] == reader.read()
        envoy.write(b"two\n")
    append(path, b"three\n")

    assert [b"two"] == reader.read()
    assert [b"three"] == reader.read()


class Between(LedgerFolder):
    """A folder in which something happens between two looks of the reader."""

    happens = staticmethod(lambda: None)

    def files(self, known):
        self.happens()
        return super().files(known)


def test_the_last_lines_of_a_removed_file_go_before_its_successors(reader, path):
    """They were written after the reader had found nothing, and nobody finds them."""
    folder = reader.folder = Between(path)
    with path.open("ab", buffering=0) as envoy:
        envoy.write(b"one\n")
        assert [b"one"] == reader.read()
        path.unlink()

        def written():
            folder.happens = lambda: None
            envoy.write(b"two\n")
            append(path, b"three\n")

        folder.happens = written

        assert [b"two"] == reader.read()
        assert [b"three"] == reader.read()


def test_a_file_that_is_gone_has_no_place(reader, path):
    """Places are not kept for ever."""
    append(path, b'{"one"}\n')
    old = path.rename(path.with_name(path.name + ".1"))
    append(path, b"two\n")
    drained(reader)
    inode = old.stat().st_ino
    old.unlink()

    reader.read()

    assert {inode: None} == reader.uncommitted()


@pytest.mark.parametrize("target", ["/dev/full", "/dev/zero", "folder", "fifo"])
def test_reads_regular_files_only(reader, path, target):
    """A full disk in tests and mistakes in life: zeros for ever, or a wait for ever."""
    path.with_name("folder").mkdir()
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to(target)

    with capture_logs() as logs:
        assert [[], []] == [reader.read(), reader.read()]
    path.unlink()
    append(path, b"one\n")

    assert [b"one"] == reader.read()
    assert ["ledger.irregular"] == [it["event"] for it in logs]


def test_the_lag_is_what_is_not_committed(reader, successor, path):
    """In all files; and only the one reader says so."""
    append(path, b'{"one"}\n')
    path.rename(path.with_name(path.name + ".1"))
    append(path, b'{"two"}\n{"three"}\n')

    assert reader.lock()
    assert not successor.lock()
    assert 26 == reader.lag()
    reader.read()
    assert 26 == reader.lag()
    commit(reader)
    assert 18 == reader.lag()
    drained(reader)
    assert 0 == reader.lag()
    assert successor.lag() is None


class Writer:
    """Envoy and an operator at one ledger; every line is another."""

    def __init__(self, path):
        self.path = path
        self.number = 0
        self.written = []
        self.half = b""
        self.renamed = 0
        self.descriptor = -1
        self.reopen()

    def reopen(self):
        """As POST /reopen_logs does: what is to be written goes first."""
        if self.half:
            os.write(self.descriptor, self.half)
            self.half = b""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.write()

    def write(self):
        os.write(self.descriptor, self.half + self._line())
        self.half = b""

    def write_half(self):
        line = self._line()
        os.write(self.descriptor, self.half + line[:5])
        self.half = line[5:]

    def _line(self):
        self.number += 1
        self.written.append(b'{"line":%d}' % self.number)
        return self.written[-1] + b"\n"

    def rename(self):
        if self.path.exists():
            self.renamed += 1
            self.path.rename(self.path.with_name(f"{self.path.name}.{self.renamed}"))


class Past:
    """Puts the changes of a folder long ago, each at a time of its own."""

    def __init__(self, folder):
        self._folder = folder
        self._ns = 0

    def age(self):
        if self._folder.stat().st_mtime_ns != self._ns:
            self._ns += 1_000_000_000
            os.utime(self._folder, ns=(self._ns, self._ns))


STEPS = ["write", "write_half", "rename", "reopen", "read", "commit", "die"]


@given(st.lists(st.sampled_from(STEPS), max_size=30), st.booleans())
def test_no_order_of_renaming_and_dying_loses_a_line(tmp_path_factory, steps, is_old):
    """Each line is read; twice only by a successor of one that had not committed."""
    path = tmp_path_factory.mktemp("steps") / "ledger.jsonl"
    writer, past = Writer(path), Past(path.parent)
    kept: dict[int, Position | None] = {}
    got = []
    reader = LedgerReader(path)
    for step in steps:
        if step == "read":
            got += reader.read()
        elif step == "commit":
            positions = reader.uncommitted()
            kept |= positions
            reader.commit(positions)
        elif step == "die":
            reader.close()
            reader = LedgerReader(path)
            reader.seek(
                {inode: position for inode, position in kept.items() if position}
            )
        else:
            getattr(writer, step)()
        if is_old:
            past.age()
    writer.reopen()
    got += drained(reader)
    reader.close()
    os.close(writer.descriptor)

    assert set(writer.written) == set(got)
    if "die" not in steps:
        assert len(writer.written) == len(got)


@pytest.fixture
def followed(reader, path):
    """The one file of a folder that has not changed for long, read to its end."""
    append(path, b"{1}\n")
    Past(path.parent).age()

    assert [[b"{1}"], []] == [reader.read(), reader.read()]


@pytest.mark.usefixtures("followed")
def test_a_folder_that_has_not_changed_is_not_scanned(reader, path):
    """Twenty times a second that would be most of what an idle worker does."""
    unchanged = path.parent.stat().st_mtime_ns
    append(path.with_name(f"{path.name}-note"), b"{2}\n")
    os.utime(path.parent, ns=(unchanged, unchanged))
    unseen = reader.read()
    os.utime(path.parent, ns=(0, 0))

    assert ([], [b"{2}"]) == (unseen, reader.read())


@pytest.mark.usefixtures("followed")
def test_what_comes_to_a_folder_is_seen_at_once(reader, path):
    append(path, b"{2}\n")
    first = reader.read()
    append(path.with_name(f"{path.name}-note"), b"{3}\n")

    assert ([b"{2}"], [b"{3}"]) == (first, reader.read())


def test_another_file_behind_a_link_is_seen_at_once(tmp_path):
    """Its folder may be the one that changes, not the link's."""
    (place := tmp_path / "place").mkdir()
    (files := tmp_path / "files").mkdir()
    append(files / "ledger", b"{1}\n")
    (link := place / "ledger.jsonl").symlink_to(files / "ledger")
    Past(place).age()
    with LedgerReader(link) as reader:
        Past(place).age()
        first = [reader.read(), reader.read()]
        (files / "ledger").rename(files / "old")
        append(files / "ledger", b"{2}\n")

        assert [[b"{1}"], [], [b"{2}"]] == [*first, reader.read()]


def test_a_file_is_finished_when_all_of_it_is_committed(reader, path):
    """Not when it is read: who reads may die before it is settled."""
    append(path, b"one\n")

    assert not reader.has_finished(reader.folder.current())
    reader.read()
    reader.read()
    assert not reader.has_finished(reader.folder.current())
    commit(reader)
    assert reader.has_finished(reader.folder.current())

    append(path, b"two\n")
    assert not reader.has_finished(reader.folder.current())


def test_the_last_line_of_a_file_that_ended_needs_no_newline(reader, path):
    """None will come; without an end it may."""
    append(path, b"one\ntwo")
    assert [b"one"] == drained(reader)

    reader.end(reader.folder.current())

    assert [b"two"] == drained(reader)
    assert reader.has_finished(reader.folder.current())


def test_nothing_is_kept_of_a_file_that_is_deleted(reader, path):
    """Another one may have got its inode before the folder is looked at again."""
    append(path, b"one\n")
    drained(reader)
    file = reader.folder.current()
    path.unlink()
    reader.forget(file)
    append(path, b"half")

    assert [] == drained(reader)
    assert {file.inode: None} == reader.uncommitted()


def test_set_aside_takes_no_name_that_is_taken(reader, path):
    """A clock that was set back says the same number twice."""
    append(path, b"one\n")
    first = reader.folder.set_aside(1)
    append(path, b"two\n")
    second = reader.folder.set_aside(1)

    assert (b"one\n", b"two\n") == (first.read_bytes(), second.read_bytes())
