"""The real `tollhouse up`, started and watched by tests."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml

from tests.command import tollhouse
from tests.stack_redis import open_redis, operator_of

ROOT = Path(__file__).resolve().parents[2]
TOLLHOUSE = [sys.executable, "-P", "-m", "tollhouse.cli"]
READY_SECONDS = 90.0
STOP_SECONDS = 10.0
"""What `up` promises."""

FAST_ENGINE = {"ttft_ms": 5, "itl_ms": 2, "prefill_ms_per_token": 0, "max_num_seqs": 64}


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A stack that is ready, or was."""

    process: subprocess.Popen[bytes]
    ready_file: Path
    output: Path
    state_dir: Path
    base_url: str
    api_key: str
    admin_url: str
    redis_url: str

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each part; `up` keeps it right over restarts."""
        pids: dict[str, int] = json.loads(self.ready_file.read_text())["pids"]
        return pids

    @property
    def said(self) -> str:
        """What `up` wrote to its terminal so far."""
        return self.output.read_text()

    def redis(self) -> redis.Redis:
        """A client of its Redis, as the operator; to be closed."""
        return open_redis(operator_of(self.state_dir))

    def refused_by_redis(self) -> list[tuple[str, str]]:
        """Who was refused what since it started, or its log was emptied."""
        with self.redis() as client:
            return [
                (it["username"], it["object"])
                for it in client.acl_log()
                if it["reason"] != "auth"  # strangers are no parts
            ]

    def run(self, *command: str) -> str:
        """Run `tollhouse COMMAND` against this stack; return its output."""
        done = tollhouse(*command, "--state-dir", self.state_dir)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """`up` and all that descends from it: parts, stubs, the watchdog."""
        up = psutil.Process(self.process.pid)
        return [up, *up.children(recursive=True)]

    def wait_until_restarted(self, part: str, before: int) -> None:
        """Return when a part that had this pid is ready again."""
        wait_until(lambda: self.pids.get(part, before) != before, READY_SECONDS)


def write_config(path: Path, **changes: Any) -> Path:
    """Write the repository's tollhouse.yaml with a fast engine and changed sections."""
    content = yaml.safe_load((ROOT / "tollhouse.yaml").read_text())
    path.write_text(yaml.safe_dump(content | {"engine": FAST_ENGINE} | changes))
    return path


@contextlib.contextmanager
def running_stack(
    folder: Path, *options: str, config: Path | None = None
) -> Iterator[RunningStack]:
    """Run `tollhouse up` on a free port until the block ends; fail with its logs.

    A second stack on the same folder finds what the first one left.
    """
    folder.mkdir(exist_ok=True)
    ready_file, output = folder / "ready.json", folder / "up.log"
    state_dir = folder / "state"
    command = [
        *(*TOLLHOUSE, "up", "--listen", "127.0.0.1:0"),
        *("--state-dir", str(state_dir), "--ready-file", str(ready_file)),
        *("--config", str(config or write_config(folder / "tollhouse.yaml"))),
        *options,
    ]
    ready_file.unlink(missing_ok=True)  # of a predecessor that was killed
    with output.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(
            lambda: ready_file.exists() or process.poll() is not None, READY_SECONDS
        )
        if process.poll() is not None or not ready_file.exists():
            pytest.fail(f"tollhouse up is not ready:\n{story(output, state_dir)}")
        ready = json.loads(ready_file.read_text())
        stack = RunningStack(
            process,
            ready_file,
            output,
            state_dir,
            *(ready[it] for it in ("base_url", "api_key", "admin_url", "redis_url")),
        )
        yield stack
        if process.poll() is None:
            # The parts do with what deploy/redis gives them, whatever was tested.
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                assert [] == stack.refused_by_redis()
    finally:
        process.terminate()
        try:
            process.wait(4 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"tollhouse up did not stop:\n{story(output, state_dir)}")


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="th-up-") as folder:
        yield Path(folder)


def story(output: Path, state_dir: Path) -> str:
    """What `up` and its parts said, for a failure's message."""
    logs = [output, *sorted((state_dir / "logs").glob("*.log"))]
    return "\n".join(
        f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs
    )


def wait_until(condition: Any, seconds: float) -> None:
    """Return when the condition holds, or when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    """Tell whether a process ended; one that waits to be buried did."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def curl_line(said: str) -> str:
    """Return the line of `up` that is meant to be pasted."""
    found = re.search(r"^curl .*$", said, re.MULTILINE)
    assert found is not None, said
    return found.group()


def minimal_environment() -> dict[str, str]:
    """An environment of a shell that knows nothing of this project."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
