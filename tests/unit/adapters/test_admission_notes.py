"""Notes of exchanges that only a worker knows of: on disk, read, gone in time."""

import pytest

from tollhouse.adapters.admission_notes import TURN_SECONDS, AdmissionNotes
from tollhouse.adapters.ledger import LedgerReader


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"envoy":1}\n')
    return path


def read_all(reader):
    found = []
    while lines := reader.read():
        found += lines
    return found


def test_the_settler_reads_them_beside_envoys_lines(ledger):
    with LedgerReader(ledger) as reader:
        reader.lock()
        notes = AdmissionNotes(ledger, "extproc-0")
        notes.note(b'{"a":1}')
        other = AdmissionNotes(ledger, "extproc-1")
        other.note(b'{"b":1}')

        first = read_all(reader)
        notes.note(b'{"a":2}')
        later = read_all(reader)

    assert [b'{"a":1}', b'{"b":1}', b'{"envoy":1}'] == sorted(first)
    assert [b'{"a":2}'] == later


def test_they_outlive_their_worker(ledger):
    """No flush is waited for, and the next life begins a new file."""
    AdmissionNotes(ledger, "w").note(b'{"a":1}')
    AdmissionNotes(ledger, "w").note(b'{"a":2}')

    with LedgerReader(ledger) as reader:
        reader.lock()

        assert [b'{"a":1}', b'{"a":2}', b'{"envoy":1}'] == sorted(read_all(reader))


def test_a_file_is_left_to_be_deleted_after_a_while(ledger):
    """The rotation deletes what is called so, once it is settled."""
    clock = Clock()
    notes = AdmissionNotes(ledger, "w", clock=clock)
    with LedgerReader(ledger) as reader:
        reader.lock()
        for number in range(4):
            notes.note(b'{"a":%d}' % number)
            clock.now += TURN_SECONDS / 2 + 0.1
        found = read_all(reader)
        files = [it for it in reader.folder.files(()) if it.is_rotated]

    assert [b'{"a":%d}' % it for it in range(4)] == [it for it in found if b"a" in it]
    assert 1 == len(files)


def test_nothing_noted_costs_no_file(ledger):
    AdmissionNotes(ledger, "w").close()

    assert [ledger.name] == [it.name for it in ledger.parent.iterdir()]


def test_a_worker_may_be_called_anything(ledger):
    """The name comes from a setting; the file stays in the ledger's folder."""
    AdmissionNotes(ledger, "../up/w 1").note(b'{"a":1}')

    assert {ledger.name, "ledger.jsonl-admitted-.._up_w_1"} == {
        it.name for it in ledger.parent.iterdir()
    }


def test_a_disk_that_is_full_stops_no_admission(ledger):
    notes = AdmissionNotes(ledger, "w")
    ledger.with_name("ledger.jsonl-admitted-w").symlink_to("/nonexistent/dir/file")

    notes.note(b'{"a":1}')

    assert [ledger.name] == [it.name for it in ledger.parent.iterdir() if it.is_file()]
