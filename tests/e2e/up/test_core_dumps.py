"""What crashes takes keys and prompts with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

_CRASH = """
import os
from tollhouse.adapters.core_dump import leave_no_core
leave_no_core()
os.abort()
"""


def limits_of(pid: int) -> tuple[str, str]:
    """Return the soft and the hard limit of a process's core dump, in bytes."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max core file size"):
            soft, hard, _ = line.removeprefix("Max core file size").split()
            return soft, hard
    raise AssertionError(pid)


def test_no_part_may_dump_its_memory(stack):
    """Ours, Envoy, Redis, Triton and its stubs; none may raise the limit again."""
    processes = stack.processes()
    assert len(processes) > len(stack.pids)
    for process in processes:
        for limit in limits_of(process.pid):
            assert limit in ("0", "1"), process.cmdline()


def test_a_crash_leaves_no_dump(tmp_path):
    """Although whoever started it allows one."""
    command = f"ulimit -c unlimited; exec {sys.executable} -c '{_CRASH}'"
    crashed = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert crashed.returncode == -signal.SIGABRT, crashed.stderr
    assert list(tmp_path.iterdir()) == []
