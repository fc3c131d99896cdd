"""How the local engine is started: what is missing is named, nothing is left over."""

from pathlib import Path

import pytest

from tollhouse.cli import engine
from tollhouse.cli.places import MissingError


def test_tools_are_found():
    """`make setup` has put them there, or these tests can't run at all."""
    tools = engine.find_tools()

    assert (tools.server / "bin" / "tritonserver").is_file()


@pytest.mark.parametrize(
    ("present", "named"),
    [
        ((), "tritonserver"),
        (("triton/pytriton/tritonserver/bin/tritonserver",), "Python environment"),
        (
            (
                "triton/pytriton/tritonserver/bin/tritonserver",
                "engine-venv/bin/python3",
            ),
            "stub",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, present: tuple[str, ...], named: str):
    """One clear line, with the remedy."""
    for name in present:
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.touch(mode=0o755)
    with pytest.raises(MissingError, match=named) as caught:
        engine.find_tools({"TOLLHOUSE_TOOLS": str(tmp_path)})

    assert "make setup" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_environment_is_named(tmp_path: Path):
    """A Python that does not run is not a Python."""
    for name in (
        "triton/pytriton/tritonserver/bin/tritonserver",
        "triton/pytriton/tritonserver/backends/python/triton_python_backend_stub",
        "engine-venv/bin/python3",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text("#!/bin/sh\nexit 1\n")
        file.chmod(0o755)
    with pytest.raises(MissingError, match="broken"):
        engine.find_tools({"TOLLHOUSE_TOOLS": str(tmp_path)})


def test_command_and_environment(tmp_path: Path):
    """Loopback only, the control APIs locked, our caller's Python settings gone."""
    tools = engine.EngineTools(Path("/t"), Path("/v"), "/lib/python")
    ports = engine.EnginePorts(grpc=1, http=2, metrics=3)
    process = engine.server_process(
        tools, tmp_path, ports, "p_", {"PATH": "/bin", "PYTHONPATH": "x", "HOME": "/h"}
    )
    addresses = [part for part in process.command if "-address=" in part]
    keys = [
        part.rpartition("=")[2] for part in process.command if ":admin-key=" in part
    ]

    assert [part.partition("=")[2] for part in addresses] == ["127.0.0.1"] * 3
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert process.environment["PATH"] == "/v/bin:/bin"
    assert process.environment["LD_LIBRARY_PATH"] == "/lib/python"
    assert process.environment["HOME"] == "/h"
    assert "PYTHONPATH" not in process.environment
    assert ports.target == "127.0.0.1:1"


def test_repository_is_replaced(tmp_path: Path):
    """A second start has the new parameters and none of the old files."""
    truth = tmp_path / 'tru"th.jsonl'
    engine.render_repository(tmp_path, truth_log=truth)
    (tmp_path / "tiny-chat" / "1" / "old.py").touch()
    parameters = engine.EngineParameters(itl_ms=7)
    engine.render_repository(tmp_path, truth_log=truth, parameters=parameters)
    config = (tmp_path / "tiny-chat" / "config.pbtxt").read_text()

    assert 'name: "tiny-chat"' in config
    assert 'key: "itl_ms" value { string_value: "7" }' in config
    assert 'tru\\"th.jsonl' in config
    assert not (tmp_path / "tiny-chat" / "1" / "old.py").exists()
    assert (tmp_path / "tiny-chat" / "1" / "model.py").is_file()


def test_stale_regions_are_removed(tmp_path: Path):
    """Ours go, another stack's stay."""
    ours, theirs = (engine.shm_prefix(tmp_path / name) for name in ("a", "b"))
    for prefix in (ours, theirs):
        (tmp_path / f"{prefix}_region").touch()

    assert ours != theirs
    assert engine.remove_stale_shm(ours, tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"{theirs}_region"]
    assert engine.remove_stale_shm(ours, tmp_path / "nowhere") == 0
