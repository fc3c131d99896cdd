"""The collector asks nobody who he is, so it listens to its machine alone."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "listen"),
    [
        ("TOLLHOUSE_LISTEN", "0.0.0.0:0"),
        ("TOLLHOUSE_HTTP_LISTEN", "collector.example:4318"),
    ],
)
def test_it_listens_on_loopback_only(name, listen):
    here = {
        "TOLLHOUSE_LISTEN": "localhost:0",
        "TOLLHOUSE_HTTP_LISTEN": "127.0.0.1:0",
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tollhouse.collector"],
        env=os.environ | here | {name: listen},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert listen in done.stderr
    assert "loopback" in done.stderr
