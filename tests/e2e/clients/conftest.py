"""One stack, and a reader who tries the programs of docs/clients.md on it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.e2e.clients.page import ENVIRONMENT, write
from tests.e2e.main.books import settlements, within
from tests.e2e.running_stack import (
    ROOT,
    RunningStack,
    running_stack,
    short_folder,
    write_config,
)
from tollhouse.core.exchange import Settlement

_RUNNERS = {".py": "python", ".mjs": "node", ".sh": "bash -euo pipefail"}
_JAVASCRIPT = Path(os.environ.get("TOLLHOUSE_TOOLS", ROOT / ".tools")) / "javascript"
_TOLD = re.compile(
    r"^(\d+) \+ (\d+) tokens$"  # our programs
    r"|^Token usage: (\d+) input, (\d+) output"  # llm
    r'|"prompt_tokens":(\d+),"completion_tokens":(\d+)'  # curl
    r'|"num_input_tokens":(\d+),"num_output_tokens":(\d+)',  # curl, of Triton
    re.MULTILINE,
)


@dataclass(frozen=True)
class Ran:
    """A program that ended well: what it printed, and what the ledger has of it."""

    output: str
    exchanges: list[Settlement]

    @property
    def told(self) -> list[tuple[int, int]]:
        """Input and output tokens the client was told, of each exchange."""
        return [
            (int(pair[0]), int(pair[1]))
            for groups in _TOLD.findall(self.output)
            if (pair := [it for it in groups if it])
        ]


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """The stack of `make up`, but for a fast engine and a plan that is soon used up."""
    tight = {"key": {"requests_per_minute": 1}, "burst_seconds": 60}
    with short_folder() as folder:
        config = write_config(folder / "clients.yaml")
        content = yaml.safe_load(config.read_text())
        content["plans"]["tight"] = tight
        config.write_text(yaml.safe_dump(content))
        with running_stack(folder, config=config) as running:
            yield running


@pytest.fixture(scope="session")
def folder(stack, tmp_path_factory) -> Path:
    """Where the reader keeps the programs: beside the state of `make up`."""
    folder: Path = tmp_path_factory.mktemp("reader")
    write(folder)
    (folder / ".tollhouse").symlink_to(stack.state_dir)
    (folder / "node_modules").symlink_to(_JAVASCRIPT / "node_modules")
    return folder


@pytest.fixture
def run(stack, folder) -> Callable[..., Ran]:
    """Return a function that runs a program until it and its exchanges ended.

    It fails with what the program said when that ended badly.
    """
    scripts = Path(sys.executable).parent

    def run(name: str, *, exchanges: int, tenant: str = "demo", **environment) -> Ran:
        before = settlements(stack.state_dir, tenant).keys()
        runner = _RUNNERS[Path(name).suffix]
        done = subprocess.run(
            ["/bin/bash", "-ec", f". ./{ENVIRONMENT}; exec {runner} {name}"],
            cwd=folder,
            env={
                "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
                "HOME": str(folder),
                "TOLLHOUSE_URL": stack.base_url.removesuffix("/v1"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert 0 == done.returncode, done.stdout + done.stderr

        def found() -> dict[str, Settlement]:
            ended = settlements(stack.state_dir, tenant)
            return {id_: ended[id_] for id_ in ended.keys() - before}

        within(30, lambda: len(found()) >= exchanges)
        return Ran(done.stdout + done.stderr, list(found().values()))

    return run
