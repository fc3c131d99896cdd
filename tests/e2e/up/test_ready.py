"""One command, and a stranger's first request works."""

import json
import os
import stat
import subprocess

import psutil
import pytest

from tests.e2e.running_stack import curl_line, minimal_environment


def test_the_ready_file_tells_all_a_client_needs(stack):
    """Scripts read it instead of the terminal."""
    ready = json.loads(stack.ready_file.read_text())

    assert ready["base_url"].startswith("http://127.0.0.1:")
    assert ready["base_url"].endswith("/v1")
    assert ready["pid"] == stack.process.pid
    assert {"redis", "triton", "frontend", "authz", "billing", "envoy"} < set(
        stack.pids
    )
    assert all(
        psutil.Process(pid).ppid() == stack.process.pid for pid in stack.pids.values()
    )
    assert mode(stack.ready_file) == 0o600


def test_the_demo_key_is_for_its_owner_only(stack):
    """And it is the one that is shown."""
    demo_key = stack.state_dir / "demo-key"

    assert mode(demo_key) == 0o600
    assert demo_key.read_text().strip() == stack.api_key
    assert stack.api_key in stack.said


def test_each_part_has_a_line_and_a_log(stack):
    """One progress line for each, then the block."""
    lines = stack.said.splitlines()
    for part in stack.pids:
        [line] = [it for it in lines if it.split()[:2] == [part, "ready"]]
        assert line.endswith(" s")
        assert (stack.state_dir / "logs" / f"{part}.log").exists()
    assert any("Tollhouse is ready" in line for line in lines)


def test_the_curl_line_works_when_pasted(stack):
    """Into a shell that knows nothing of this project."""
    done = subprocess.run(
        ["/bin/sh", "-c", curl_line(stack.said)],
        capture_output=True,
        text=True,
        timeout=60,
        env=minimal_environment(),
        check=True,
    )

    events = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    assert len(events) > 3


def test_no_secret_is_in_an_environment_or_a_command_line(stack):
    """Both are open to more than their owner on many systems."""
    secrets = [
        stack.api_key,
        (stack.state_dir / "pepper").read_text().strip(),
        (stack.state_dir / "run" / "proof").read_text().strip(),
    ]
    for process in stack.processes()[1:]:
        told = json.dumps([process.cmdline(), process.environ()])
        assert not [secret for secret in secrets if secret in told], process


def test_children_get_no_more_of_our_environment_than_they_need(stack):
    """A token in the shell that started `up` is none of Triton's business."""
    for pid in stack.pids.values():
        names = set(psutil.Process(pid).environ())
        ours = {name for name in names if not name.startswith("TOLLHOUSE_")}
        assert ours <= ALLOWED, pid


ALLOWED = {
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH"),
    *("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE"),
    "TOKENIZERS_PARALLELISM",
}


def test_sockets_are_for_their_owner_only(stack):
    """Whoever reaches extproc's socket could admit itself."""
    run = (stack.state_dir / "run").resolve()

    assert mode(run) == 0o700
    assert run.stat().st_uid == os.getuid()
    assert mode(run / "envoy.json") == 0o600


def test_commands_find_the_stack_by_its_state_directory(stack):
    """What the README tells next."""
    assert "demo" in stack.run("tenants", "list")
    assert json.loads(stack.run("usage", "--json", "--tenant", "nobody")) == []


@pytest.mark.parametrize("what", ["redis", "envoy", "triton", "extproc-0"])
def test_every_part_leads_a_group_of_its_own(stack, what):
    """Ctrl-C in the terminal must reach `up` alone, which then stops them in order."""
    pid = stack.pids[what]

    assert os.getpgid(pid) == pid
    assert os.getsid(pid) == pid


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
