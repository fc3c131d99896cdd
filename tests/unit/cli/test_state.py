"""The state directory belongs to one stack, keeps secrets and bounds its logs."""

import os
import stat
import subprocess
import sys
import time

import pytest

from tollhouse.cli.redis_users import USERS
from tollhouse.cli.state import StateDirectory, StateError, write_whole


@pytest.fixture
def state(tmp_path):
    return StateDirectory(tmp_path / "state")


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_for_their_owner_only(state):
    """Whatever the umask says."""
    before = os.umask(0)
    try:
        with state.hold():
            assert {0o600} == {mode(state.pepper), mode(state.proof)}
            assert {0o700} == {mode(state.run), mode(state.redis), mode(state.ledger)}
    finally:
        os.umask(before)


def test_each_redis_user_has_a_password_that_stays(state):
    """Processes of a deployment that outlives a start go on with theirs."""
    files = [state.redis_users.password_file(it) for it in USERS]
    with state.hold():
        passwords = [it.read_text() for it in files]
        modes = {mode(it) for it in files}
    with state.hold():
        again = [it.read_text() for it in files]

    assert passwords == again
    assert len(USERS) == len(set(passwords))
    assert ({0o600}, 0o700) == (modes, mode(state.redis_users.folder))


def test_the_pepper_stays_and_the_proof_changes(state):
    """Keys must open after a restart; a proof must not."""
    with state.hold():
        pepper, proof = state.pepper.read_text(), state.proof.read_text()
    with state.hold():
        assert pepper == state.pepper.read_text()
        assert proof != state.proof.read_text()


def test_a_second_holder_is_refused_with_the_firsts_pid(state):
    """Two Redis on one file would ruin it."""
    with (
        state.hold(),
        pytest.raises(StateError, match=rf"pid {os.getpid()}\).*--state-dir"),
        StateDirectory(state.path).hold(),
    ):
        pass


@pytest.mark.timed
def test_a_lock_that_is_about_to_go_is_waited_for(state):
    """After `kill -9` the watchdog keeps it for a moment."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from tollhouse.cli.state import StateDirectory\n"
        "with StateDirectory(Path(sys.argv[1])).hold():\n"
        "    print('held', flush=True); time.sleep(0.5)"
    )
    command = [sys.executable, "-c", script, str(state.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        with state.hold():
            assert time.monotonic() - began > 0.3


def test_the_run_directory_is_short_enough_for_sockets(tmp_path):
    """A socket's path has 107 bytes at most, a state directory's any number."""
    deep = StateDirectory(tmp_path / ("d" * 100) / ("e" * 100))
    with deep.hold():
        assert len(os.fsencode(deep.run / "extproc-99.sock")) <= 107
        assert (deep.path / "run").resolve() == deep.run

    assert not deep.run.exists()
    assert not (deep.path / "run").is_symlink()


def test_a_directory_that_can_not_be_is_refused(tmp_path):
    """One line with the remedy."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(StateError, match=r"can't use the state directory.*--state-dir"),
        StateDirectory(tmp_path / "file" / "state").hold(),
    ):
        pass


def test_logs_begin_anew_with_each_start(state):
    """The last run's are kept; those of the run before that go."""
    logs = [state.logs / "redis.log", state.logs / "access.log"]
    with state.hold():
        for text in ("first", "second"):
            for log in logs:
                log.write_text(text)
            state.rotate_logs(["redis", "envoy"])

        for log in logs:
            assert not log.exists()
            assert log.with_suffix(".log.1").read_text() == "second"


def test_a_log_that_grew_too_large_begins_anew(state):
    """Its writer appends, and so goes on at the new end."""
    with state.hold():
        log = state.logs / "extproc-0.log"
        with log.open("ab", buffering=0) as writer:
            writer.write(b"x" * 100)
            state.bound_logs(largest_bytes=99)
            writer.write(b"more")

        assert log.read_bytes() == b"more"
        assert (state.logs / "extproc-0.log.1").read_bytes() == b"x" * 100


def test_a_file_is_replaced_whole(tmp_path):
    """A reader of the ready file never sees half of it."""
    path = tmp_path / "ready.json"
    write_whole(path, "old")
    write_whole(path, "new", mode=0o600)

    assert path.read_text() == "new"
    assert mode(path) == 0o600
    assert [path] == list(tmp_path.iterdir())
