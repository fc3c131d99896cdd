"""What can't work is refused with one clear line, status 2 and nothing left."""

import os
import socket
import subprocess
import time
from dataclasses import dataclass

import pytest

from tests.e2e.running_stack import ROOT, TOLLHOUSE, write_config
from tollhouse.cli.state import StateDirectory


@dataclass(frozen=True)
class Refusal:
    """How an `up` that gave up ended."""

    status: int
    lines: list[str]
    seconds: float


@pytest.fixture
def refused(tmp_path):
    """Return a function that runs `tollhouse up` and expects it to give up."""

    def run(*options: str, **environment: str) -> Refusal:
        began = time.monotonic()
        done = subprocess.run(
            [*TOLLHOUSE, "up", "--state-dir", str(tmp_path / "state"), *options],
            capture_output=True,
            text=True,
            timeout=60,
            env=dict(os.environ) | environment,
            check=False,
        )
        return Refusal(
            done.returncode, done.stderr.splitlines(), time.monotonic() - began
        )

    return run


def test_a_second_up_on_the_same_state(stack, refused):
    """Two Redis on one file would ruin it; the first stays as it was."""
    before = stack.pids
    refusal = refused("--state-dir", str(stack.state_dir), "--listen", "127.0.0.1:0")

    assert refusal.status == 2
    [line] = refusal.lines
    assert f"another `tollhouse up` (pid {stack.process.pid}) uses" in line
    assert "--state-dir" in line
    assert before == stack.pids


def test_a_port_in_use(refused):
    """Envoy would share it silently: SO_REUSEPORT."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        refusal = refused("--listen", f"127.0.0.1:{port}")

    assert refusal.status == 2
    [line] = refusal.lines
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in line
    assert "--listen" in line


def test_the_port_of_a_running_stack(stack, refused):
    """The likeliest port in use is our own."""
    refusal = refused("--listen", stack.base_url.split("/")[2])

    assert refusal.status == 2
    assert "Address already in use" in refusal.lines[0]


def test_a_bad_config(refused, tmp_path):
    """File, path in it and remedy."""
    config = write_config(tmp_path / "bad.yaml", modles={})
    refusal = refused("--config", str(config), "--listen", "127.0.0.1:0")

    assert refusal.status == 2
    [line] = refusal.lines
    assert f"{config}: modles: unknown field; did you mean `models`?" in line


def test_a_model_without_a_cluster(refused, tmp_path):
    """Found before the first request finds it."""
    text = (ROOT / "tollhouse.yaml").read_text()
    config = tmp_path / "tollhouse.yaml"
    config.write_text(text.replace("cluster: tiny-chat", "cluster: llama"))
    refusal = refused("--config", str(config), "--listen", "127.0.0.1:0")

    assert refusal.status == 2
    [line] = refusal.lines
    assert "model `tiny-chat` of tollhouse.yaml goes to cluster `llama`" in line


def test_a_missing_engine(refused, tmp_path):
    """The remedy, and the way without it."""
    refusal = refused("--listen", "127.0.0.1:0", TOLLHOUSE_TOOLS=str(tmp_path))

    assert refusal.status == 2
    [line] = refusal.lines
    assert "tritonserver is not installed" in line
    assert "make setup" in line
    assert "--backend URL" in line


def test_a_redis_that_is_too_old(refused, tmp_path):
    """Its scripts would fail at the first request."""
    fake = tmp_path / "bin" / "redis-server"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho Redis server v=5.0.14 sha=0\n")
    fake.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    refusal = refused("--listen", "127.0.0.1:0", PATH=path)

    assert refusal.status == 2
    assert [f"error: {fake} is v=5.0; Tollhouse needs 6.2 or later"] == refusal.lines


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--listen", "nowhere"], "`nowhere` is not HOST:PORT"),
        (["--listen", "127.0.0.1:70000"], "the port is above 65535"),
        (["--workers", "0"], "`0` is not a positive number"),
        (["--backend", "localhost:8000"], "is not http://HOST:PORT"),
    ],
)
def test_a_wrong_option(refused, options, why):
    """Argparse's status is 2 as well."""
    refusal = refused(*options)

    assert refusal.status == 2
    assert why in refusal.lines[-1]


def test_a_ready_file_in_no_directory(refused, tmp_path):
    """Found at the start, not when all is ready."""
    refusal = refused(
        *("--listen", "127.0.0.1:0"),
        *("--ready-file", str(tmp_path / "none" / "ready.json")),
    )

    assert refusal.status == 2
    assert f"--ready-file: {tmp_path / 'none'} is no directory" in refusal.lines[0]


def test_a_part_that_can_not_start(refused, tmp_path):
    """The line has its last words; what was started is stopped."""
    data = tmp_path / "state" / "redis"
    data.mkdir(parents=True)
    (data / "appendonly.aof").write_bytes(b"garbage that is no append-only file\n" * 9)
    refusal = refused("--listen", "127.0.0.1:0")

    assert refusal.status == 1
    [line] = refusal.lines
    assert "redis exited with code 1" in line
    assert "Bad file format" in line
    assert not (tmp_path / "state" / "run").is_symlink()


def test_nothing_is_left_of_a_refused_start(refused, tmp_path):
    """Neither sockets nor the run directory nor a held lock."""
    refusal = refused("--listen", "203.0.113.1:1")

    assert refusal.status == 2
    state = StateDirectory(tmp_path / "state")
    assert not (state.path / "run").is_symlink()
    assert not state.run.exists()
    with state.hold():
        pass
