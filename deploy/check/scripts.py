"""Shell scripts of deploy/: they can be read, and ShellCheck has nothing to say."""

import shutil
import subprocess
from collections.abc import Iterator

from deploy.check.tree import Tree


def check(tree: Tree) -> Iterator[str]:
    """Yield what a shell can't read, and what ShellCheck says where it is installed."""
    scripts = [str(it) for it in sorted(tree.deploy.rglob("*.sh"))]
    commands = [["sh", "-n", it] for it in scripts]
    if shellcheck := shutil.which("shellcheck"):
        commands.append([shellcheck, "--format", "gcc", *scripts])
    for command in commands:
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        if asked.returncode:
            yield from (asked.stdout + asked.stderr).strip().splitlines()
