"""A state directory, its keyring, and the command line beside it."""

import io
import sys
from pathlib import Path

import pytest

from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.cli.__main__ import main


@pytest.fixture
def state(redis_server, redis_url, tmp_path: Path) -> Path:
    """A state directory as `tollhouse up` leaves it."""
    assert redis_url
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "run").symlink_to(redis_server.socket_path.parent)
    pepper = folder / "pepper"
    pepper.touch(mode=0o600)
    pepper.write_text("5a" * 32 + "\n")
    return folder


@pytest.fixture
def tollhouse(state: Path, monkeypatch):
    """Run a command; its status and what it wrote to stdout and stderr."""

    def run(*arguments: str, place: bool = True) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        where = ["--state-dir", str(state)] if place else []
        try:
            status = main([*arguments, *where])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def keyring(redis_url: str, state: Path):
    ring = Keyring(redis_url, Pepper.read(state / "pepper"))
    yield ring
    ring.close()
