"""Two gateways replaced under load; `make rollout` does it ten times with more."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_nothing_is_cut_and_all_is_settled():
    """Each is drained by the hooks of deploy/base/gateway.yaml while requests come."""
    command = [sys.executable, "-m", "tests.rollout"]
    command += ["--rolls", "2", "--streams", "30", "--longest", "2"]

    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )

    assert 0 == done.returncode, done.stdout
    assert done.stdout.endswith("nothing was cut or lost\n")
