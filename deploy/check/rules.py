"""What Prometheus itself says of its configuration and its rules.

What the rules do is tested elsewhere, by `promtool test rules` in tests/.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator

from deploy.check.tree import Tree


def check(tree: Tree) -> Iterator[str]:
    """Yield what promtool refuses, in any file Prometheus is given."""
    folder = tree.deploy / "observability" / "prometheus"
    promtool = shutil.which("promtool", path=_path(tree))
    if promtool is None:
        yield "promtool is missing: run `make setup`, or install Prometheus"
        return
    rules = sorted((folder / "rules").glob("*.yaml"))
    configurations = sorted(folder.glob("prometheus*.yaml"))
    for what, files in (("rules", rules), ("config", configurations)):
        if not files:
            yield f"{folder}: has no {what}"
            continue
        asked = subprocess.run(
            [promtool, "check", what, *files],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode:
            yield from asked.stderr.strip().splitlines()


def _path(tree: Tree) -> str:
    own = tree.root / ".tools" / "prometheus"
    return os.pathsep.join((str(own), os.environ.get("PATH", os.defpath)))
