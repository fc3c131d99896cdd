"""Starting extproc: one clear line for each fault."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"CONFIG": "broken.yaml"}, "broken.yaml: plan: unknown field; did you mean"),
        ({"CONFIG": "nowhere.yaml"}, "nowhere.yaml: No such file"),
        ({"ADMISSION_PROOF_FILE": "short"}, "must hold 32 to 256 of"),
        ({"ADMISSION_PROOF_FILE": "nowhere"}, "can't read nowhere: No such file"),
        ({"LEDGER": "nowhere/ledger.jsonl"}, "can't use the folder of nowhere/"),
        ({"ENVOY_ADMIN": "9901"}, "TOLLHOUSE_ENVOY_ADMIN: `9901` is not HOST:PORT"),
        ({"LEDGER_ROTATE_BYTES": "0"}, "should be greater than or equal to 1"),
        ({"REDIS_URL": "redis://:hunter2@x/0"}, "must not hold a password"),
        ({"LOG_LEVEL": "loud"}, "TOLLHOUSE_LOG_LEVEL: Input should be"),
        ({"DRAIN_LISTEN": "127.0.0.1:1"}, "set TOLLHOUSE_ENVOY_ADMIN, too"),
        (
            {"DRAIN_LISTEN": "127.0.0.1:1", "ENVOY_ADMIN": "127.0.0.1:2"},
            "anybody could drain Envoy through a port: set TOLLHOUSE_DRAIN_PERMIT",
        ),
    ],
)
def test_bad_start(tmp_path: Path, change, reason):
    """What can't work is one line on stderr and status 2; no secret is repeated."""
    config = (ROOT / "tollhouse.yaml").read_text("utf-8")
    (tmp_path / "broken.yaml").write_text(config + "plan: {}\n", "utf-8")
    (tmp_path / "proof").write_text("p" * 40)
    (tmp_path / "short").write_text("hunter2")
    settings = {
        "LISTEN": f"unix:{tmp_path}/extproc.sock",
        "REDIS_URL": f"unix://{tmp_path}/redis.sock",
        "CONFIG": str(ROOT / "tollhouse.yaml"),
        "ADMISSION_PROOF_FILE": "proof",
        "LEDGER": "ledger.jsonl",
        "BILLING_TARGET": f"unix:{tmp_path}/billing.sock",
        **change,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tollhouse.extproc"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **{f"TOLLHOUSE_{name}": value for name, value in settings.items()},
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (2, "") == (done.returncode, done.stdout)
    assert reason in done.stderr
    assert 1 == done.stderr.count("\n")
    assert "hunter2" not in done.stderr
