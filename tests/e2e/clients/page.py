"""docs/clients.md as files: each code block is a program with a name."""

import re
from pathlib import Path

from tests.e2e.running_stack import ROOT

PAGE = ROOT / "docs" / "clients.md"
ENVIRONMENT = "environment.sh"
"""The block that tells a shell where the gateway is; all others need it."""

_FENCE = re.compile(r"\s*(```|~~~)(.*)")
_TITLED = re.compile(r'\w+ title="(\w+\.\w+)"')


def blocks() -> dict[str, str]:
    """All code blocks by name. Raises ValueError for one that has none of its own."""
    found: dict[str, str] = {}
    name: str | None = None
    for number, line in enumerate(PAGE.read_text().splitlines(keepends=True), 1):
        fence = _FENCE.match(line)
        if fence is None:
            if name is not None:
                found[name] += line
        elif name is not None:
            name = None
        else:
            titled = _TITLED.fullmatch(fence[2].strip())
            if titled is None or titled[1] in found:
                raise ValueError(f"{PAGE.name}:{number}: what is not run can't be here")
            name = titled[1]
            found[name] = ""
    return found


def write(folder: Path) -> None:
    """Write all blocks into a folder, as a reader would have them."""
    for name, text in blocks().items():
        (folder / name).write_text(text)
